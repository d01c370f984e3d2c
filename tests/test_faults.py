"""Faults that were found in published evaluations of anomaly detection, each with the test that would catch it here."""

import importlib
import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import confusion_matrix

from brainuad import training
from brainuad.cohort import Cohort
from brainuad.configuration import check
from brainuad.measures import above_threshold, count_regions, curves, false_positive_numbers
from brainuad.models import class_of, create
from brainuad.results import Results
from brainuad.sample_set import SampleSet, SampleWriter
from brainuad.scoring import components
from brainuad.tables import make_table, numbers
from brainuad.thresholds import Threshold
from brainuad.typeset import as_html, as_latex, as_markdown
from conftest import ROOT

SIZE = (16, 16)
RATES = (0.01, 0.05)


@pytest.fixture
def cohort(tmp_path):
    """Three test images with lesions, their brains and the maps of no particular model."""
    generator = np.random.default_rng(0)
    writer = SampleWriter(tmp_path / "samples", 3, SIZE)
    maps = []
    for index in range(3):
        brain, lesion = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
        brain[2:14, 2:14], lesion[4:8, 4 : 7 + index] = True, True
        writer.add(generator.random(SIZE), brain, lesion, {"scan": f"sub-{index}", "subject": index, "split": "test"})
        maps.append(generator.random((1, *SIZE), dtype=np.float32) + 0.3 * lesion)
    writer.close()
    (tmp_path / "score").mkdir()
    np.save(tmp_path / "score/map.npy", np.float32(maps))
    pd.DataFrame(writer.rows).to_csv(tmp_path / "score/table.tsv", sep="\t", index=False)
    return Cohort(tmp_path / "score", SampleSet(tmp_path / "samples"))


def pixels(cohort, threshold):
    """What is marked and what is true of the brain's pixels of all images."""
    brain = np.stack([brain for brain, _ in cohort.masks()])
    truth = np.stack([lesion for _, lesion in cohort.masks()])[brain]
    return (np.stack(list(cohort.images("map"))) > threshold)[brain], truth


def test_false_positive_rate_is_no_false_discovery_rate(cohort):
    """Published as fp / (fp + tp)."""
    threshold = 0.9
    numbers = false_positive_numbers(cohort, np.ones((2, 3)), {("brain", rate): Threshold(threshold) for rate in RATES})
    each = [
        (marked & ~truth).sum() / (~truth).sum()
        for marked, truth in (
            ((scores > threshold)[brain], lesion[brain])
            for scores, (brain, lesion) in zip(cohort.images("map"), cohort.masks(), strict=True)
        )
    ]
    assert numbers[0].value == pytest.approx(np.mean(each))
    marked, truth = pixels(cohort, threshold)
    assert abs(numbers[0].value - (marked & ~truth).sum() / marked.sum()) > 0.1


def test_cells_of_the_confusion_matrix_are_not_exchanged(cohort):
    """Published as ``TP, FP, TN, FN = confusion_matrix(prediction, truth).ravel()``, whose order is TN, FN, FP, TP."""
    marked, truth = pixels(cohort, 0.7)
    negative, wrong, missed, right = confusion_matrix(truth, marked).ravel()
    true, false = above_threshold(cohort, "brain", "map", 0.7)
    assert (true.sum(), false.sum()) == (right, wrong)
    assert (truth.sum() - true.sum(), (~truth).sum() - false.sum()) == (missed, negative)


def test_an_option_is_not_always_taken_for_its_first_value():
    """Published as ``if cfg.get("residualmode", "l1"):``, which is always true."""
    image = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    losses = []
    for loss in ("l1", "squared"):
        torch.manual_seed(0)
        model = create("swin_mae.SwinMAE", (32, 32), {**tiny("swin_mae", "SwinMAE"), "loss": loss})
        torch.manual_seed(1)
        losses.append(model.loss(image)["loss"].item())
    assert losses[0] != pytest.approx(losses[1], rel=0.05)


def tiny(module, name):
    """The smallest preset of a model."""
    return getattr(importlib.import_module(f"brainuad.models.{module}"), name).tiny


def test_true_positive_rate_does_not_stand_as_the_false_one(cohort):
    """Published as ``eval_pc["FPR"] = Metrics.tpr(...)``."""
    points = curves(count_regions(cohort))
    part = points[points["region"] == "brain"]
    middle = part.iloc[len(part) // 2]
    marked, truth = pixels(cohort, np.nextafter(np.float32(middle["threshold"]), -np.inf))
    assert middle["false_positive_rate"] == pytest.approx(marked[~truth].mean(), abs=0.01)
    assert middle["true_positive_rate"] == pytest.approx(marked[truth].mean(), abs=0.05)


def test_every_optimiser_of_a_model_is_saved(tmp_path, monkeypatch, cohort):
    """Published: one optimiser saved, two others trained, so that a resumed training has lost their state."""
    states = []
    monkeypatch.setattr(training, "write_checkpoint", lambda path, state: states.append(state))
    samples, generator = tmp_path / "training", np.random.default_rng(0)
    writer = SampleWriter(samples, 6, (32, 32))
    for index in range(6):
        image = generator.random((32, 32))
        writer.add(
            image, image > 0, image < 0, {"scan": f"sub-{index}", "split": "validation" if index == 0 else "train"}
        )
    writer.close()
    entry = check(yaml.safe_load((ROOT / "config/config.yaml").read_text()), ROOT / "config/schema/config.schema.yaml")
    section = {**entry["training"], "device": "cpu", "checkpoint_every": 1}
    options = {**entry["models"]["rae"], "params": dict(tiny("rae", "RAE")), "epochs": 2, "batch_size": 2}
    options["training"] = section
    paths = {name: tmp_path / name for name in ("model.safetensors", "model.json", "history.tsv", "cost.json")}
    keys = ("model", "description", "history", "cost")
    training.train([samples], **dict(zip(keys, paths.values(), strict=True)), settings=options, seed=1)
    assert len(states[0]["optimizers"]) == 2
    assert all(len(state["state"]) > 0 for state in states[0]["optimizers"]), "moments of the weights they move"
    moved = sum(len(group["params"]) for state in states[0]["optimizers"] for group in state["param_groups"])
    model = create("rae.RAE", (32, 32), dict(tiny("rae", "RAE")))
    assert moved == sum(p.requires_grad for p in model.parameters())


def test_a_perfect_reconstruction_leaves_an_empty_residual():
    """Published: ``(prediction + 1) / 2`` applied twice, which turns images white."""
    image = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    perfect = SimpleNamespace(reconstruct=lambda x: x.clone(), score=lambda x, y, perceptual: (x - y).abs())
    parts = components(perfect, lambda x, y: torch.zeros_like(x), image)
    assert torch.equal(parts["reconstruction"], image)
    assert parts["residual"].abs().max() == 0
    assert parts["map"].abs().max() == 0


def test_scores_are_kept_in_single_precision():
    """Published: scores cast to half precision, whose ties change the average precision."""
    image = torch.full((1, 1, 32, 32), 0.5) + torch.arange(32) * 1e-5
    half = SimpleNamespace(reconstruct=lambda x: torch.zeros_like(x).half(), score=lambda x, y, p: (x - y).abs())
    parts = components(half, lambda x, y: torch.zeros_like(x), image)
    assert {part.dtype for part in parts.values()} == {torch.float32}
    assert parts["map"].unique().numel() == 32


PAGES = ["README.md", "config/README.md", "profiles/README.md", "results/README.md", "resources/lpips/README.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
PATH = r"(?<![\w/])(?:config|demo|benchmarks|docs|resources|envs|profiles)/[\w./-]+\.\w+"
# The reader's own files; what a run of the demonstration makes, which git ignores, counts as such.
OWN = r"config/exclusions\.tsv|config/datasets/\w+\.(tsv|csv)|demo/results/.*"


def code_of(text):
    """The commands and the names in a page: blocks of shell, and what stands between backticks in a line."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))])


def test_paths_in_commands_are_found():
    text = (
        "`--configfile config/a.yaml` x\n```sh\nrun demo/b.yaml  # c\n```\n```yaml\nx: docs/c.md\n```\n[d](docs/d.md)\n"
    )
    assert re.findall(PATH, code_of(text)) == ["demo/b.yaml", "config/a.yaml"]


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page):
    """Published: the first command of a README names a configuration that is elsewhere."""
    text = (ROOT / page).read_text()
    for path in re.findall(PATH, code_of(text)):
        assert (ROOT / path).exists() or re.fullmatch(OWN, path), path
    for link in re.findall(r"\]\((?!http|#)([^)#]+)", text):
        assert (ROOT / page).parent.joinpath(link).resolve().exists(), link
    for path in re.findall(
        r"`((?:config|demo|docs|profiles|scripts|resources|tests|envs|benchmarks|rules)/[\w./-]+)`", text
    ):
        # The one is said there never to be made, the other is the user's own and ignored by git.
        assert (ROOT / path).exists() or path in ("profiles/default", "config/exclusions.tsv"), path


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_configured_epochs_are_those_that_are_trained(epochs, tmp_path, monkeypatch, make_sample_set):
    """Published: an option that a table in the code overrides. Here the steps are counted."""
    steps, cls = [], class_of("vqvae.VQVAE")
    step = cls.step
    monkeypatch.setattr(cls, "step", lambda *given: steps.append(1) or step(*given))
    written = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    written["models"] = {"vqvae": {"class": "vqvae.VQVAE", "batch_size": 4, "epochs": epochs, "lr": 1e-3}}
    del written["comparison"]
    checked = check(written, ROOT / "config/schema/config.schema.yaml")
    settings = {**checked["models"]["vqvae"], "params": dict(tiny("vqvae", "VQVAE"))}
    settings["training"] = {**checked["training"], "device": "cpu"}
    paths = {"model": "model.safetensors", "description": "model.json", "history": "h.tsv", "cost": "cost.json"}
    paths = {name: tmp_path / file for name, file in paths.items()}
    training.train([make_sample_set()], **paths, settings=settings, seed=1)
    assert len(steps) == 2 * epochs, "eight images in batches of four"
    assert pd.read_csv(paths["history"], sep="\t")["epoch"].tolist() == list(range(1, epochs + 1))
    assert json.loads(paths["cost"].read_text())["epochs"] == epochs


def test_numbers_of_the_demonstration_are_those_of_the_readme():
    """Published: two tables of one repository disagree. Here the table and the text about empty and flat images."""
    table = (ROOT / "README.md").read_text().split("| Model | SSIM, frame |")[1].split("\n\n")[0]
    found = {name.strip(): value for name, value in re.findall(r"^\| ([^|]+) \| (\d\.\d{3}) \|", table, re.M)}
    trained = [value for name, value in found.items() if "†" not in name]
    assert len(trained) == 5
    text = " ".join((ROOT / "docs/evaluation.md").read_text().split())
    assert f"SSIM of {found['Intensity †']} in the frame" in text
    assert f"trained models have {min(trained)} to {max(trained)}," in text
    assert f"the flat one has {found['Flat brain †']} and" in text


def test_one_number_is_not_printed_as_two():
    """Published: two tables of one repository disagree."""
    key = {"dataset": "ixi", "metric": "ssim", "region": "frame", "pooling": "images", "map": "reconstruction"}
    pooled = {**key, "dataset": "synthetic", "pooling": "pixels", "map": "map"}
    keys = [key, {**pooled, "metric": "auroc"}, {**pooled, "metric": "average_precision"}]
    rows = [
        {**key, "model": model, "seed": 1, "value": value + index / 10, "reason": ""}
        for model, value in (("rae", 0.123), ("mean", 0.25))
        for index, key in enumerate(keys)
    ]
    frame = pd.DataFrame(rows).assign(n=3, subjects=3, prevalence=0.1)
    replicates = frame["value"].to_numpy()[:, None] + np.linspace(-0.05, 0.05, 200) * (
        1 + frame.index.to_numpy()[:, None]
    )
    labels = {name: {"label": None, "floor": name == "mean"} for name in ("rae", "mean")}
    settings = {"study": "s", "simulated": False, "datasets": ["ixi", "synthetic"], "models": labels, "floor": None}
    table = make_table(Results(frame, replicates), "paper", settings)
    forms = as_markdown(table), as_latex(table), as_html(table)
    found = [re.findall(r"\d\.\d{3}", text.split("Model")[-1]) for text in forms]
    assert len(found[0]) == 2 * 3 * 3 + 3
    assert found[0] == found[1] == found[2]
    printed = numbers(table).select_dtypes("number").stack().abs().to_numpy()
    assert set(found[0]) == {f"{value:.3f}" for value in printed if value > 0}
