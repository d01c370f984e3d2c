"""The benchmarks run, at sizes at which their figures say nothing, and what must be equal is equal."""

import importlib
import subprocess
import sys

import numpy as np
import pytest
import side_by_side
import simulated
from scipy.ndimage import gaussian_filter

from brainuad.models.dae import DenoisingAE
from conftest import ROOT

SHARED = ("side_by_side", "simulated", "steps")
SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem not in SHARED)
PRIOR = {"width": 16, "depth": 2, "heads": 2}
SWIN = {"width": 12, "heads": [2, 4], "window": 4}
TINY = {
    "vqvae_training": {"batch": 2, "side": 32, "channels": 8},
    "rae_training": {"batch": 2, "side": 16, "params": {"channels": [4, 4], "latent": 4}},
    "transformer_training": {"batch": 2, "side": 32, "channels": 8, "params": PRIOR},
    "swin_mae_training": {"batch": 2, "side": 32, "params": SWIN},
    "swin_mae_scoring": {"batch": 2, "side": 32, "params": SWIN, "narrow": SWIN, "updates": 2, "subjects": 1},
    "healing": {
        "batch": 2,
        "side": 8,
        "lengths": (1, 64),
        "params": PRIOR,
        "updates": (2, 2),
        "subjects": 1,
        "count": 4,
    },
    "sampling": {"batch": 2, "side": 8, "lengths": (1, 64), "params": PRIOR},
}


def smooth(subjects, each, side):
    """Blurred noise in place of simulated brains, which take seconds."""
    images = gaussian_filter(np.random.default_rng(0).random((len(subjects) * each, 1, side, side)), (0, 0, 2, 2))
    return images.astype(np.float32), np.ones(images.shape, bool)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_can_be_imported(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert callable(getattr(module, "measure", None) or module.main)


@pytest.mark.parametrize("name", TINY)
def test_models_are_measured(name, monkeypatch):
    module = importlib.import_module(name)
    if hasattr(module, "slices"):
        monkeypatch.setattr(module, "slices", smooth)
    rows = list(module.measure(rounds=2, **TINY[name]))
    assert len(side_by_side.table(rows).splitlines()) == len(rows) + 2
    ratios, others = ([row for row in rows if (row.unit == "×") is kind] for kind in (True, False))
    assert ratios
    assert all(0 < row.low <= row.value <= row.high for row in ratios)
    same = [row for row in others if "difference in" not in row.goal]  # that of an untrained model says nothing
    assert same
    assert all(row.reached for row in same)


def test_all_jobs_are_started_with_what_they_import_later():
    fixed_costs = importlib.import_module("fixed_costs")
    doors = set(fixed_costs.doors())
    assert {*fixed_costs.LATER, *fixed_costs.TORCH, *fixed_costs.UNBOUND} <= doors
    assert "nilearn.image" in fixed_costs.imports("preprocess")
    (row,) = fixed_costs.starts(2, ["costs"])
    assert row.reached
    assert 0 < row.low <= row.value <= row.high


def test_more_scans_are_more_of_a_job(monkeypatch):
    fixed_costs = importlib.import_module("fixed_costs")
    monkeypatch.setattr(fixed_costs, "SITE", fixed_costs.SITE | {"spacing": (4.0, 4.0, 4.0)})
    one, sixteen = fixed_costs.share_of_work(1)
    assert 0 < one.value < sixteen.value < 100


def test_two_workers_are_timed_in_turns(monkeypatch):
    preprocessing = importlib.import_module("preprocessing")
    monkeypatch.setattr(preprocessing, "SITE", preprocessing.SITE | {"spacing": (4.0, 4.0, 4.0)})
    gain, equal = preprocessing.scaling(2, 1)
    assert 0 < gain.low <= gain.value <= gain.high
    assert equal.reached


def test_processes_that_ended_count():
    study_cost = importlib.import_module("study_cost")
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    assert study_cost.took(lambda: subprocess.run([sys.executable, "-c", burn], check=True)) > 0.3


def test_work_of_training_and_scoring_is_counted():
    study_cost = importlib.import_module("study_cost")
    entry = {"class": "dae.DenoisingAE", "params": DenoisingAE.tiny, "requires": None}
    small, large = (study_cost.training(entry, {}, size) for size in ((32, 32), (32, 64)))
    assert large == pytest.approx(2 * small, rel=0.1)
    assert all(value > 0 for value in study_cost.scoring(study_cost.built(entry, {}, (32, 32))))


def test_evaluation_of_more_images_takes_more():
    study_cost = importlib.import_module("study_cost")
    assert study_cost.evaluation(10, (64, 64), 100, 1.5) > 0


def test_peers_owe_brainuad_nothing():
    paths = list((ROOT / "benchmarks/peers").glob("*.py"))
    assert paths
    assert not [path for path in paths if "import brainuad" in path.read_text() or "from brainuad" in path.read_text()]


def test_slices_are_brains():
    images, brains = simulated.slices(range(1), 2, 32)
    assert images.shape == brains.shape == (2, 1, 32, 32)
    assert images.dtype == np.float32
    assert images.max() <= 1
    assert 0.2 < brains.mean() < 0.7
    assert not images[~brains].any()
    assert images[brains].mean() > 0.4
    changed, masks = simulated.abnormal(images, brains, (6, 8))
    assert masks.any((1, 2, 3)).all()
    assert np.array_equal(changed[~masks], images[~masks])
