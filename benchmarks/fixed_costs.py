"""What a job costs before it works: its interpreter and its imports; how much of a scan's job is work.

Every door of ``scripts/`` is started, with what its job imports on top later, whatever it is given. Imports are held to
their goals in seconds of a processor, of which they need one: what else the machine does then matters little.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import nibabel
import pandas as pd
from preprocessing import SETTINGS, SITE
from side_by_side import ROOT, Row, figure, main

from brainuad.phantom import Site, simulate

ROUNDS = 3  # of all doors in turn
LIMIT, TORCH_LIMIT = 1.5, 2.5  # seconds of a job without and with torch
TORCH = ("score", "train", "trunk")
UNBOUND = ("preprocess",)  # it is held to its share of work
AGG = "import matplotlib.backends.backend_agg"  # what saves a figure
# What the functions of a job import when they are called, whatever they are called with. A training is imported, and
# made, by the job that the door of ``train`` submits; the first optimizer brings torch._dynamo.
LATER = {
    "figures": AGG,
    "groups": AGG,
    "maps": f"{AGG}\nimport matplotlib.backends.backend_pdf, nilearn.plotting",
    "preprocess": "import nilearn.datasets, nilearn.image",
    "quality": AGG,
    "report": AGG,
    "response_surface": AGG,
    "significance": AGG,
    "train": "import brainuad.training, torch._dynamo",
}
# A job that has a model imports its module: these two stand for those without and with MONAI, which Swin MAE and, by
# its VQ-VAE, the transformer have, too.
MODELS = {"score": {"Reverse AE": "rae", "VQ-VAE": "vqvae"}, "train": {"VQ-VAE": "vqvae"}}
SCANS, USUAL = 4, 16  # of the job that is timed, and of a job of the paper's study
JOB = """
import sys, json
from pathlib import Path
sys.path.insert(0, sys.argv[1])
{imports}
preprocess(json.loads(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[3]) / "table.tsv", json.loads(sys.argv[4]))
"""


def doors() -> list[str]:
    """The scripts of all rules."""
    return sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))


def imports(door: str) -> str:
    """What the door of a rule imports at once, and what its job does later."""
    text = (ROOT / f"scripts/{door}.py").read_text(encoding="utf-8")
    return "\n".join([*re.findall(r"^(?:from|import) .*$", text, re.M), LATER.get(door, "")])


def kinds(door: str) -> dict[str, str]:
    """The kinds of jobs that a rule has, and what each imports."""
    models = MODELS.get(door)
    if not models:
        return {f"`{door}`": imports(door)}
    return {
        f"`{door}`, {label}": f"{imports(door)}\nimport brainuad.models.{module}" for label, module in models.items()
    }


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


def starts(rounds: int = ROUNDS, names: tuple[str, ...] = ()) -> Iterator[Row]:
    """Seconds that each kind of job takes to start; of all doors, or of those that are named."""
    codes = {(door, kind): code for door in names or doors() for kind, code in kinds(door).items()}
    took = {key: [] for key in codes}
    with ThreadPoolExecutor(2) as two:  # each is a process of its own, and seconds of a processor are counted
        for _ in range(rounds):
            for key, pair in zip(codes, two.map(start, codes.values()), strict=True):
                took[key].append(pair)
    for (door, kind), pairs in took.items():
        cpu, clock = zip(*pairs, strict=True)
        wanted = None if door in UNBOUND else TORCH_LIMIT if door in TORCH else LIMIT
        note = f"{figure(median(clock))} s by the clock, two at a time; {rounds} rounds"
        spread = {"low": min(cpu), "high": max(cpu), "unit": "CPU s", "at_least": False}
        yield Row(f"Start of a job of the rule {kind}", "", wanted, median(cpu), **spread, note=note)


def share_of_work(scans: int = SCANS) -> Iterator[Row]:
    """Seconds that a job spends on its scans, of all that it takes, in one run; and what more of them give.

    The scans are one simulated brain, again and again.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, rows = Path(name), []
        path = folder / "scan.nii.gz"  # one for all: what differs between brains takes no other time
        nibabel.save(simulate("0", Site(**SITE), 0).t1w, path)
        for number in range(scans):
            row = {"scan": f"sub-{number}", "subject": str(number), "session": "", "lesion": "", "t1w": str(path)}
            rows.append({**row, "skull_stripped": None})
        code = JOB.format(imports=imports("preprocess"))
        _, took = start(code, str(ROOT / "scripts"), json.dumps(rows), str(folder / "out"), json.dumps(SETTINGS))
        table = pd.read_csv(folder / "out/table.tsv", sep="\t")
    work = float(table["seconds"].sum())
    each, rest = work / scans, took - work
    note = f"{figure(each)} s a scan of 1 mm, simulated, and {figure(rest)} s for the job, 1 run"
    shares = (scans, note), (USUAL, f"computed from the job of {scans}")
    for count, said in shares:
        share = 100 * count * each / (count * each + rest)
        yield Row(f"Work in a job of {count} scans", "", 80, share, unit="%", note=said)


def measure() -> Iterator[Row]:
    """Seconds of each kind of job, and the share of work."""
    yield from starts()
    rules = [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")]
    runs = sum(len(re.findall(r"^\s+run:", path.read_text(encoding="utf-8"), re.M)) for path in rules)
    yield Row("Rules with `run:`, which import Snakemake anew", "", 0, runs, unit="", at_least=False)
    yield from share_of_work()


if __name__ == "__main__":
    main(measure)
