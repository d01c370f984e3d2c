"""All benchmarks, one after the other, each in a process of its own: ``make bench``. Writes ``docs/benchmarks.md``."""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import ROOT, Row, table

SECTIONS = {
    "Training": ("vqvae_training", "swin_mae_training", "rae_training", "transformer_training", "training_rate"),
    "Scoring": ("healing", "swin_mae_scoring", "anomaly_maps"),
    "Evaluation": ("pooled_metrics", "bootstrap"),
    "Scans": ("preprocessing", "brain_mask", "feeding"),
    "Workflow": ("fixed_costs", "planning"),
}
PACKAGES = ("torch", "torchvision", "monai", "monai-generative", "lpips", "antspyx", "numpy", "scipy")
PACKAGES += ("scikit-image", "scikit-learn", "torchmetrics", "snakemake")
MINUTES = 25  # that all may take, on a CPU
PAGE, GPU_PAGE = ROOT / "docs/benchmarks.md", ROOT / "docs/benchmarks_gpu.md"
BEGINNING, END = "<!-- measured -->", "<!-- end -->"
NO_GPU = "no GPU"


def machine() -> str:
    """Where, when and with what this was measured."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    cores = f"{os.cpu_count()} cores ({processor()}), {allowed()} of them allowed"
    threads = f"OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}"
    python = f"Python {platform.python_version()}"
    return f"{datetime.date.today().isoformat()}, {cores}, {threads}, {python}; {graphics()}. {versions}."


def allowed() -> int:
    """Cores that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def processor() -> str:
    """Its name, where Linux tells it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def graphics() -> str:
    """The GPU that torch sees."""
    code = f"import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else {NO_GPU!r})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def run(name: str, folder: Path) -> tuple[list[Row], str]:
    """The rows of a benchmark, and a sentence on how it went."""
    rows, began = folder / name, time.monotonic()
    command = [sys.executable, ROOT / f"benchmarks/{name}.py", "--rows", rows]
    print(f"\n{name}", flush=True)
    failed = subprocess.run(command).returncode
    said = f"`{name}.py`: {time.monotonic() - began:.0f} s"
    if failed:
        return [], f"{said}, **failed**"
    told = json.loads(rows.read_text(encoding="utf-8"))
    return [Row(**row) for row in told["rows"]], f"{said}, {told['conditions']}"


def page(sections: dict[str, list[Row]], said: list[str]) -> str:
    """What goes between the marks of the page."""
    rows = [row for part in sections.values() for row in part]
    goals = [row for row in rows if row.wanted is not None]
    parts = [f"Measured {machine()}", f"{sum(row.reached for row in goals)} of {len(goals)} goals reached."]
    if missing := sum("**failed**" in sentence for sentence in said):
        parts[1] += f" Those of {missing} scripts that failed are not among them."
    for title, part in sections.items():
        parts += [f"## {title}", table(part)] if part else []
    return "\n\n".join([*parts, "Scripts: " + "; ".join(said) + "."])


def main() -> None:
    """Run all, or those that are named, and write the page."""
    known = [name for names in SECTIONS.values() for name in names]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="BENCHMARK", help=f"of {', '.join(known)}; all if none is named")
    chosen = parser.parse_args().names or known
    if unknown := sorted(set(chosen) - set(known)):
        parser.error(f"there is no benchmark {unknown[0]!r}; choose from {', '.join(known)}")
    sections, said, began = {title: [] for title in SECTIONS}, [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for title, names in SECTIONS.items():
            for name in names:
                if name in chosen:
                    rows, sentence = run(name, Path(folder))
                    sections[title] += rows
                    said.append(sentence)
    whole, failed = set(chosen) == set(known), any("failed" in sentence for sentence in said)
    if whole and not failed:
        minutes = (time.monotonic() - began) / 60
        wanted = MINUTES if graphics() == NO_GPU else None
        goal = "`make bench`, all scripts one after the other"
        sections["Workflow"].append(Row(goal, "", wanted, minutes, unit="minutes", at_least=False))
    text = page(sections, said)
    print(f"\n{text}")
    if whole:
        write(text, graphics())
    sys.exit(failed)


def write(text: str, card: str) -> None:
    """Put it between the marks of the page; figures of a GPU have one of their own."""
    path = PAGE if card == NO_GPU else GPU_PAGE
    before, rest = path.read_text(encoding="utf-8").split(BEGINNING)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGINNING}\n\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
