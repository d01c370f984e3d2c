"""The template's brain on other grids, against nilearn's own way to it."""

import subprocess
import sys

import numpy as np
import pytest
from nilearn.datasets import load_mni152_brain_mask, load_mni152_template
from nilearn.image import resample_img

from brainuad.standard_brain import standard_brain, standard_mask
from conftest import ROOT

TURNED = np.array([[1.9, 0.2, 0, -80], [-0.2, 1.9, 0.1, -110], [0, -0.1, 2.2, -60], [0, 0, 0, 1]])


def grids():
    for voxel in (1.0, 2.0, 3.0):
        image = resample_img(load_mni152_template(1), np.eye(3) * voxel, force_resample=True, copy_header=True)
        yield image.shape, image.affine
    yield (70, 90, 60), TURNED


@pytest.mark.parametrize("number", range(4))
def test_agrees_with_nilearn(number):
    shape, affine = list(grids())[number]
    options = {"target_affine": affine, "target_shape": shape, "force_resample": True, "copy_header": True}
    theirs = resample_img(load_mni152_template(1), interpolation="continuous", **options)
    np.testing.assert_allclose(standard_brain(shape, affine), theirs.get_fdata(dtype=np.float32), atol=1e-4)
    theirs = resample_img(load_mni152_brain_mask(1), interpolation="nearest", **options)
    np.testing.assert_array_equal(standard_mask(shape, affine), theirs.get_fdata() > 0)


def test_imports_of_nilearn_are_spared():
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy
from brainuad.standard_brain import standard_mask
standard_mask((2, 2, 2), numpy.eye(4))
print("sklearn" in sys.modules, "nilearn.image" in sys.modules)
"""
    arguments = [sys.executable, "-c", code, str(ROOT / "scripts")]
    assert subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split() == ["False", "False"]
