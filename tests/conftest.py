"""Fixtures that many tests share."""

import os

# Two test processes share the cores; more threads than cores would make small operations several times slower.
os.environ["OMP_NUM_THREADS"] = "1"

import importlib
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from brainuad.sample_set import SampleWriter

ROOT = Path(__file__).parents[1]

# A shell that starts the tests in the background has them, and all that they start and interrupt, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Start with the longest file, so that the others fill the second process meanwhile."""
    items.sort(key=lambda item: "test_workflow" not in item.nodeid)


@pytest.fixture
def generative(monkeypatch):
    """Networks and inferers of monai-generative, which looks for one name where MONAI no longer keeps it."""
    import monai.config
    from monai.utils import IgniteInfo

    monkeypatch.setattr(monai.config, "IgniteInfo", IgniteInfo, raising=False)
    names = ("networks.nets", "inferers", "utils.ordering")
    return SimpleNamespace(
        **{key: value for name in names for key, value in vars(importlib.import_module(f"generative.{name}")).items()}
    )


@pytest.fixture
def rng():
    """A seeded generator."""
    return np.random.default_rng(20261123)


@pytest.fixture
def make_sample_set(tmp_path, rng):
    """Write a small sample set of smooth random discs; returns its folder."""

    def make(name="samples", size=(32, 32), splits=("train",) * 8 + ("validation",) * 2 + ("test",) * 4):
        folder = tmp_path / name
        writer = SampleWriter(folder, len(splits), size)
        grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, length) for length in size], indexing="ij"))
        for i, split in enumerate(splits):
            brain = np.square(grid).sum(0) < 0.7
            image = (0.5 + 0.3 * np.sin(3 * grid[0] + rng.normal(0, 0.3)) * np.cos(2 * grid[1])) * brain
            row = {
                "scan": f"sub-{i:03d}",
                "subject": f"{i:03d}",
                "session": "",
                "split": split,
                "position": 8.0,
            }
            writer.add(image.astype(np.float32), brain, np.zeros(size, bool), row)
        writer.close()
        return folder

    return make
