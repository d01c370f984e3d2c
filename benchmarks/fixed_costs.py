"""What a job costs before it works: its interpreter and its imports; how much of a scan's job is work.

Imports are given in seconds of a processor, of which they need one: what else the machine does then matters little.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import nibabel
import pandas as pd
from preprocessing import SETTINGS, SITE
from side_by_side import ROOT, Row, figure, main

from brainuad.phantom import Site, simulate

ROUNDS = 5
LIGHT = ("metrics", "comparison", "significance", "figures", "report", "costs", "quality", "samples")
HEAVY = ("score", "training")
SCANS = 4
JOB = """
import sys, json
from pathlib import Path
sys.path.insert(0, sys.argv[1])
{imports}
preprocess(json.loads(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[3]) / "table.tsv", json.loads(sys.argv[4]))
"""


def imports(door: str) -> str:
    """What the door of a rule imports; training is imported by the job that the door submits."""
    if door == "training":
        return "import brainuad.training"
    text = (ROOT / f"scripts/{door}.py").read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^(?:from|import) .*$", text, re.M))


def start(code: str, *arguments: str) -> tuple[float, float]:
    """Seconds of a processor and by the clock that an interpreter takes to run this."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT / "scripts", stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"This cannot be run:\n{code}")
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - began


def share_of_work() -> Row:
    """Seconds that a job of some scans spends on them, of all that it takes."""
    with tempfile.TemporaryDirectory() as name:
        folder, scans = Path(name), []
        for number in range(SCANS):
            path = folder / f"{number}.nii.gz"
            nibabel.save(simulate(str(number), Site(**SITE), 0).t1w, path)
            row = {"scan": f"sub-{number}", "subject": str(number), "session": "", "lesion": "", "t1w": str(path)}
            scans.append({**row, "skull_stripped": None})
        code = JOB.format(imports=imports("preprocess"))
        _, took = start(code, str(ROOT / "scripts"), json.dumps(scans), str(folder / "out"), json.dumps(SETTINGS))
        table = pd.read_csv(folder / "out/table.tsv", sep="\t")
    work = float(table["seconds"].sum())
    note = f"{SCANS} simulated scans of 1 mm, {figure(work)} of {figure(took)} s; a job of the paper's study has 16"
    return Row("Work in a job of scans", "", 80, 100 * work / took, unit="%", note=note)


def measure() -> Iterator[Row]:
    """Seconds of each kind of job, and the share of work."""
    for doors, wanted in ((LIGHT, 1.5), (HEAVY, 2.5)):
        for door in doors:
            code = imports(door)
            start(code)
            took = [start(code)[0] for _ in range(ROUNDS)]
            goal = f"Start of a job of the rule `{door}`"
            yield Row(goal, "", wanted, median(took), min(took), max(took), unit="CPU s", at_least=False)
    rules = [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")]
    runs = sum(len(re.findall(r"^\s+run:", path.read_text(encoding="utf-8"), re.M)) for path in rules)
    yield Row("Rules with `run:`, which import Snakemake anew", "", 0, runs, unit="", at_least=False)
    yield share_of_work()


if __name__ == "__main__":
    main(measure)
