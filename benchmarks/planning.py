"""How long Snakemake plans a study of many scans: ``python benchmarks/planning.py``.

Writes the paper's study with manifests of so many scans, empty files in their place, and times ``snakemake -n`` with
nothing done yet: reading the manifests, looking for the scans, the graph of jobs. Prints a table in Markdown.
"""

import argparse
import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("scans", "scans a job", "jobs", "seconds", "CPU seconds", "peak memory, MB")
CASES = ((2_113, 16), (2_113, 1), (10_000, 100), (50_000, 500))


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


def machine() -> str:
    """Where and with what this was measured."""
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("snakemake", "pandas"))
    day = datetime.date.today().isoformat()
    system = f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}"
    return f"{day}, {system}, {', '.join(versions)}; load of the machine before: {os.getloadavg()[0]:.1f}"


def main() -> None:
    """Measure each case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs=2, type=int, action="append", metavar=("SCANS", "SCANS_PER_JOB"))
    print(f"{machine()}\n\n| {' | '.join(COLUMNS)} |\n|{' ---: |' * len(COLUMNS)}")
    for scans, scans_per_job in parser.parse_args().case or CASES:
        with tempfile.TemporaryDirectory() as folder:
            write_study(Path(folder), scans, scans_per_job)
            jobs, seconds, cpu, memory = plan(Path(folder))
        print(f"| {scans:,} | {scans_per_job} | {jobs:,} | {seconds:.1f} | {cpu:.1f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
