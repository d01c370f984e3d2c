"""Calibrated maps of simulated patients and controls, small: smooth noise in the template's brain, and one region."""

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from scipy import ndimage

from brainuad.groups import COLUMNS
from brainuad.quality import template_brain

SPACING = 8.0
AFFINE = np.array([[SPACING, 0, 0, -92], [0, SPACING, 0, -128], [0, 0, SPACING, -72], [0, 0, 0, 1.0]])
SHAPE = (24, 28, 24)
CENTRE = (24.0, -20.0, 8.0)  # mm, of the region that patients lack
RADIUS = 14.0


def brain():
    """The template's brain on the grid, bool."""
    return template_brain(nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE))


def region():
    """The region in which patients differ, bool."""
    points = nibabel.affines.apply_affine(AFFINE, np.moveaxis(np.indices(SHAPE), 0, -1))
    return (np.linalg.norm(points - CENTRE, axis=-1) < RADIUS) & brain()


def simulated_map(generator, effect=0.0):
    """Smooth noise of variance 1 in the brain, raised in the region."""
    noise = ndimage.gaussian_filter(generator.standard_normal(SHAPE), 1.2)
    return ((noise / noise.std() + effect * region()) * brain()).astype(np.float32)


def people(controls=14, patients=12):
    """A row a subject; sites, ages and sexes are balanced."""
    rows = []
    for group, number in (("control", controls), ("patient", patients)):
        for index in range(number):
            row = {"subject": f"{group[0]}{index:02d}", "session": "", "split": "test", "group": group}
            rows.append({**row, "age": str(60 + 3 * (index % 6)), "sex": "FM"[index % 2], "site": f"s{index // 2 % 2}"})
    return pd.DataFrame(rows)


def maps_folder(folder, table, make):
    """Write a folder of maps as rule maps does; ``make(row)`` gives the voxels of one."""
    folder = Path(folder)
    (folder / "scans").mkdir(parents=True, exist_ok=True)
    table = table.copy()
    labels = table["session"].where(table["session"] == "", "_ses-" + table["session"])
    table["scan"] = "sub-" + table["subject"] + labels
    table["zscore"] = "scans/" + table["scan"] + "_z.nii.gz"
    for row in table.itertuples():
        nibabel.save(nibabel.Nifti1Image(make(row), AFFINE), folder / row.zscore)
    table[list(COLUMNS)].to_csv(folder / "table.tsv", sep="\t", index=False)
    return folder / "table.tsv"
