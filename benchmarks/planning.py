"""How long Snakemake plans a study of many scans: ``python benchmarks/planning.py``.

Writes the paper's study with manifests of so many scans, empty files in their place, and times ``snakemake -n`` with
nothing done yet: reading the manifests, looking for the scans, the graph of jobs.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import yaml
from side_by_side import ROOT, Row, figure, main

COHORTS = ((2_113, 16, 8), (50_000, 500, 10))  # scans, scans a job, seconds that are wanted
MEMORY = 300  # MB
ROUNDS = 5


def write_study(folder: Path, scans: int, scans_per_job: int) -> None:
    """Write the paper's study with its four cohorts of equal size, each scan an empty file."""
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config["preprocessing"]["scans_per_job"] = scans_per_job
    config["comparison"]["published"] = None  # its table is not copied
    cohorts = [name for name, entry in config["datasets"].items() if "manifest" in entry]
    (folder / "config/datasets/raw").mkdir(parents=True)
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    for number, name in enumerate(cohorts):
        subjects = [f"{name}{i:06d}" for i in range(number, scans, len(cohorts))]
        for subject in subjects:
            (folder / f"config/datasets/raw/{subject}.nii.gz").touch()
        rows = [f"{subject}\traw/{subject}.nii.gz\t{name}" for subject in subjects]
        (folder / config["datasets"][name]["manifest"]).write_text("\n".join(["subject\tt1w\tsite", *rows, ""]))


def plan(folder: Path) -> tuple[int, float, float, float]:
    """Plan the study; returns the number of jobs, seconds, seconds of a CPU, and peak memory in MB."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder, "-n"]
    with (folder / "plan.txt").open("w") as output:
        began = time.monotonic()
        process = subprocess.Popen([*command, "--quiet", "rules"], stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
    printed = (folder / "plan.txt").read_text()
    jobs = re.search(r"^total\s+(\d+)", printed, re.M)
    if status or jobs is None:
        sys.exit(f"The study of {folder} cannot be planned:\n{printed[-2000:]}")
    return int(jobs[1]), seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6


def measure(rounds: int = ROUNDS, cohorts: tuple = COHORTS) -> Iterator[Row]:
    """Seconds and memory of each case."""
    for scans, scans_per_job, wanted in cohorts:
        with tempfile.TemporaryDirectory() as folder:
            write_study(Path(folder), scans, scans_per_job)
            jobs, seconds, cpu, memory = zip(*(plan(Path(folder)) for _ in range(rounds)), strict=True)
        goal = f"Planning {scans:,} scans, {scans_per_job} a job"
        note = f"{jobs[0]:,} jobs; {figure(median(cpu))} CPU s"
        spread = {"low": min(seconds), "high": max(seconds), "unit": "s", "at_least": False}
        yield Row(goal, "", wanted, median(seconds), **spread, note=note)
        yield Row("... peak memory", "", MEMORY, max(memory), unit="MB", at_least=False)


if __name__ == "__main__":
    main(measure)
