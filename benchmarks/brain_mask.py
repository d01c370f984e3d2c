"""The brain of a real head, Colin27 of Debian's package mricron-data: overlap with its published brain, and seconds."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"

import time

import nibabel
import numpy as np
from scipy.ndimage import binary_fill_holes
from side_by_side import Row, main

from brainuad import volumes

ROUNDS = 5


def colin27(folder: str) -> list[nibabel.Nifti1Image]:
    """The head and its brain."""
    try:
        subprocess.run(["apt-get", "download", "-qq", "mricron-data"], cwd=folder, check=True)
        subprocess.run(["dpkg", "-x", next(Path(folder).glob("*.deb")), folder], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"Colin27 comes with Debian's package mricron-data, which cannot be had here: {error}")
    return [nibabel.load(next(Path(folder).rglob(f"{name}.nii.gz"))) for name in ("ch2", "ch2bet")]


def measure(resolution: float = 1.0, rounds: int = ROUNDS) -> Iterator[Row]:
    """Dice and CPU seconds of the default method, with a template of so many mm."""
    with tempfile.TemporaryDirectory() as folder:
        head, brain = (volumes.from_nifti(image) for image in colin27(folder))
    truth, template, seconds = binary_fill_holes(brain.numpy() > 0), volumes.template(resolution), []
    for _ in range(rounds):
        began = time.process_time()
        found = volumes.brain_mask(head, template, skull_stripped=False).numpy() > 0
        seconds.append(time.process_time() - began)
    overlap = 2 * np.sum(found & truth) / (found.sum() + truth.sum())
    yield Row("Brain of one head, Colin27", "its published brain, filled", 0.96, float(overlap), unit="Dice")
    spread = {"low": min(seconds), "high": max(seconds), "unit": "CPU s", "at_least": False}
    yield Row("... time", "", 6, median(seconds), **spread)


if __name__ == "__main__":
    main(measure)
