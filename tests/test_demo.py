"""What the finished demonstration shows; skipped where ``make demo`` has not been run."""

import numpy as np
import pandas as pd
import pytest
import yaml

from brainuad.sample_set import SampleSet
from conftest import ROOT

DEMO = ROOT / "demo/results"
CONFIG = yaml.safe_load((ROOT / "demo/config/config.yaml").read_text())
PAPER = yaml.safe_load((ROOT / "config/config.yaml").read_text())

pytestmark = pytest.mark.skipif(not (DEMO / "table2.csv").exists(), reason="the demonstration has not run: make demo")


def test_it_holds_the_papers_models_and_the_floors():
    left_out = {"diffusion", "equalised_intensity"}  # the first needs hours
    expected = [entry["class"] for name, entry in PAPER["models"].items() if name not in left_out]
    assert [entry["class"] for entry in CONFIG["models"].values()] == expected
    table = pd.read_csv(DEMO / "comparison.tsv", sep="\t")
    assert list(table["model"]) == list(CONFIG["models"])
    found = table.set_index("model")["phantom_a_synthetic/auroc/frame/pixels"]
    assert found.drop("blur").gt(0.6).all()
    assert found["blur"] < found.drop("blur").min()  # it copies the anomalies, and yet its SSIM is high


@pytest.mark.parametrize("model", [name for name, entry in CONFIG["models"].items() if "epochs" in entry])
def test_every_model_has_learnt(model):
    history = pd.read_csv(DEMO / f"train/{model}/1/history.tsv", sep="\t")
    term = "reconstruction" if "reconstruction" in history else "loss"
    assert history[term].iloc[-1] < history[term].iloc[0] / 1.5
    assert history[f"validation_{term}"].iloc[-1] < 1.3 * history[term].iloc[-1]


def errors_inside_anomalies(model):
    """Mean squared distance of the reconstruction inside the anomalies to the clean image and to the altered one."""
    altered, clean = SampleSet(DEMO / "samples/phantom_a_synthetic"), SampleSet(DEMO / "samples/phantom_a")
    folder = DEMO / f"score/{model}/1/phantom_a_synthetic"
    rows = pd.read_csv(folder / "table.tsv", sep="\t")
    reconstruction, lesion = np.load(folder / "reconstruction.npy"), altered.lesion[rows["sample"]]
    pairs = clean.images[rows["source"]], altered.images[rows["sample"]]
    return [np.square(reconstruction - images)[lesion].mean() for images in pairs]


@pytest.mark.parametrize("model", CONFIG["models"])
def test_the_suite_shows_a_blind_spot(model):
    """Each model finds some anomalies far better than chance and is blind to others; which ones, the report shows."""
    table = pd.read_csv(DEMO / f"response/{model}/1/phantom_a_suite.tsv", sep="\t")
    assert table["detection"].notna().all()
    unchanged = table["kind"].isin(["deformation", "blur", "texture", "copy_paste"]) & (table["intensity"] == 0)
    gain = (table["average_precision"] / table["prevalence"])[~unchanged]
    assert gain.min() < 3 < gain.max() / 2


@pytest.mark.parametrize("model", ["rae", "swin_mae"])
def test_pasted_regions_are_restored(model):
    to_clean, to_pasted = errors_inside_anomalies(model)
    assert to_clean < to_pasted


def test_the_vqvae_copies_what_is_pasted():
    """The paper's own finding: it reconstructs well and does not detect."""
    to_clean, to_pasted = errors_inside_anomalies("vqvae")
    assert to_pasted < to_clean
