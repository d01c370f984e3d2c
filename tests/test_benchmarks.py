"""The benchmarks run, at sizes at which their figures say nothing, and what must be equal is equal."""

import importlib
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import side_by_side
import simulated
import torch
import yaml
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from brainuad.models.attention import causal
from brainuad.models.dae import DenoisingAE
from brainuad.phantom import Site, simulate
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
    "swin_mae_scoring": {
        "batch": 2,
        "side": 32,
        "params": SWIN,
        "narrow": {**SWIN, "unit": 8},
        "updates": 2,
        "subjects": 1,
        "small": 32,
    },
    "healing": {
        "batch": 2,
        "side": 8,
        "lengths": (1, 64),
        "params": PRIOR,
        "updates": (2, 2),
        "subjects": 1,
        "count": 4,
        "small": 16,
    },
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
    assert all(in_order(row) for row in ratios)
    same = [row for row in others if "difference in" not in row.goal]  # that of an untrained model says nothing
    assert same
    assert all(row.reached for row in same)


@pytest.mark.parametrize("name", TINY)
def test_models_are_measured_on_a_gpu(name, monkeypatch):
    """On a processor that is taken for one: its 16 bit are bfloat16, and its memory is always the same."""
    module, steps = importlib.import_module(name), importlib.import_module("steps")
    accelerate, worked = steps.accelerate, []
    half = {"auto": "bf16-mixed", "32-true": "32-true"}
    for place in (module, steps):
        monkeypatch.setattr(place, "on_gpu", lambda: True, raising=False)
    monkeypatch.setattr(steps, "memory", lambda work: worked.append(work()) or 1)
    monkeypatch.setattr(steps, "product_rate", lambda kind: 1e12)
    monkeypatch.setattr(steps, "accelerate", lambda told: accelerate({**told, "precision": half[told["precision"]]}))
    if hasattr(module, "slices"):
        monkeypatch.setattr(module, "slices", smooth)
    goals = [row.goal for row in module.measure(rounds=1, **TINY[name])]
    assert sum(goal.startswith("... memory of ") for goal in goals) == 1
    assert len(worked) == 2, "ours and the peer's"
    assert goals.count("... in bf16-mixed") == ("training" in name)
    assert goals.count("... of the rate of the machine's products of matrices") == 1 + ("training" in name)


def in_order(row):
    """Whether a figure of several rounds is one, and lies within its spread."""
    return 0 < row.low <= row.value <= row.high


def test_all_images_are_fed_by_all(monkeypatch):
    feeding = importlib.import_module("feeding")
    alternate, fed = feeding.alternate, []

    def noted(*works, **options):
        return alternate(*(lambda work=work: fed.append(work()) for work in works), **options)

    monkeypatch.setattr(feeding, "alternate", noted)
    rows = list(feeding.measure(count=6, side=16, batch=4, rounds=2, workers=(0, 2)))
    assert fed == 3 * [6 * feeding.PASSES, *[6] * 6]  # a round that warms up, and three peers by two loaders
    assert len(rows) == 3
    assert all(in_order(row) for row in rows)


def test_maps_of_both_kinds_are_those_of_image_after_image():
    rows = list(importlib.import_module("anomaly_maps").measure(count=3, side=32, rounds=2))
    ratios, errors = rows[::2], rows[1::2]
    assert ["RA's own" in row.goal for row in ratios] == [False, True, False]
    assert all(in_order(row) for row in ratios)
    assert all(row.unit == "" and row.wanted == 1e-6 and row.reached for row in errors)


def test_a_training_from_disk_is_held_against_one_from_memory(monkeypatch):
    training_rate = importlib.import_module("training_rate")
    train_batch, learnt = training_rate.Run.train_batch, []

    def noted(run, epoch, step, numbers):
        learnt.append(sorted(numbers))
        return train_batch(run, epoch, step, numbers)

    monkeypatch.setattr(training_rate.Run, "train_batch", noted)
    (row,) = training_rate.measure(count=8, side=32, batch=2, steps=3, rounds=2, params=SWIN)
    assert len(learnt) == 9  # a round that warms up, and two
    assert len(set(map(tuple, learnt))) == 3, "each step has images of its own"
    assert row.unit == "% of the rate"
    assert in_order(row)


def test_the_brain_of_a_head_is_held_against_its_published_one(monkeypatch):
    """A simulated head in place of Colin27, whose package is not at hand everywhere."""
    brain_mask = importlib.import_module("brain_mask")
    scan = simulate("001", Site(spacing=(4.0, 4.0, 4.0), head=True, orientation="PSR"), seed=7)
    brain = nibabel.Nifti1Image(scan.brain.astype(np.uint8), scan.t1w.affine)
    monkeypatch.setattr(brain_mask, "colin27", lambda folder: [scan.t1w, brain])
    overlap, seconds = brain_mask.measure(resolution=4.0, rounds=2)
    assert 0.9 < overlap.value <= 1
    assert in_order(seconds)
    assert (overlap.unit, seconds.unit) == ("Dice", "CPU s")


def test_all_jobs_are_started_with_what_they_import_later():
    fixed_costs = importlib.import_module("fixed_costs")
    doors = set(fixed_costs.doors())
    assert {*fixed_costs.LATER, *fixed_costs.TORCH, *fixed_costs.UNBOUND, *fixed_costs.MODELS} <= doors
    assert [code.splitlines()[-1] for code in fixed_costs.kinds("score").values()] == [
        "import brainuad.models.rae",
        "import brainuad.models.vqvae",
    ]
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


def test_attention_is_counted_on_a_processor_without_what_fills_up_its_heads():
    operations = importlib.import_module("steps").operations
    batch, count, length = 2, 3, 32
    for channels in (8, 16, 24):  # the first and the last are filled up
        q, k, v = (torch.rand(batch, count, length, channels, requires_grad=True) for _ in range(3))
        forward = 4 * batch * count * length**2 * channels
        assert operations(lambda: causal(q, k, v)) == forward  # noqa: B023
        assert operations(lambda: causal(q, k, v).sum().backward()) == 3.5 * forward  # noqa: B023
        assert operations(lambda: F.scaled_dot_product_attention(q, k, v)) == forward  # noqa: B023


def test_the_work_of_a_transformer_grows_with_the_square_of_its_codes():
    study_cost = importlib.import_module("study_cost")
    entries = {
        "vqvae": {"class": "vqvae.VQVAE", "params": {"channels": [8, 8], "residual_units": 1}, "requires": None},
        "prior": {"class": "vqvae_transformer.VQVAETransformer", "params": PRIOR, "requires": "vqvae"},
    }
    # Of one layer's attention back and forth: 14 n² channels; all else grows with n.
    one, two, four = (study_cost.training(entries["prior"], entries, (64, side)) for side in (64, 128, 256))
    attention = PRIOR["depth"] * 14 * PRIOR["width"] * 256**2  # n = 256 codes of the first
    assert (four - two) - 2 * (two - one) == pytest.approx(attention * (12 - 2 * 3), rel=1e-3)


def test_a_scan_and_its_quality_control_are_measured(monkeypatch):
    study_cost = importlib.import_module("study_cost")
    monkeypatch.setattr(study_cost, "SITE", study_cost.SITE | {"spacing": (4.0, 4.0, 4.0)})
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config = study_cost.check(config, ROOT / "config/schema/config.schema.yaml")
    seconds, left, cutting, control = study_cost.scan(config, (2, 3))
    assert len(control) == 2
    assert all(value > 0 for value in (seconds, left, cutting, *control))


def test_evaluation_of_more_images_takes_more():
    study_cost = importlib.import_module("study_cost")
    assert study_cost.evaluation(10, (64, 64), 100, 1.5) > 0


def test_the_work_of_models_is_added_up(capsys):
    study_cost = importlib.import_module("study_cost")
    learner = {"label": "DAE", "class": "dae.DenoisingAE", "params": DenoisingAE.tiny, "requires": None, "epochs": 7}
    floor = {"label": "Flat", "class": "floors.Flat", "params": {}, "requires": None}
    config = {"samples": {"size": [32, 32]}, "training": {"seeds": [1, 2]}, "models": {"dae": learner, "flat": floor}}
    totals = study_cost.models(config, learnt=10, scored=3)
    step = study_cost.training(learner, {}, (32, 32))
    assert totals["training"] == 2 * 7 * 10 * step
    assert totals["scoring"] >= 2 * 3 * study_cost.scoring(study_cost.built(learner, {}, (32, 32)))[1] > 0
    weights = study_cost.built(learner, {}, (32, 32)).state_dict().values()
    assert totals["bytes"] == 2 * sum(weight.nbytes for weight in weights)
    assert totals["least"] == totals["most"] == pytest.approx(2, rel=0.1)
    printed = capsys.readouterr().out
    assert printed.count("\n| DAE |") == 1
    assert "Flat" not in printed, "a floor learns next to nothing"


def test_the_stages_of_the_study_are_added_up(monkeypatch, capsys):
    study_cost = importlib.import_module("study_cost")
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config = study_cost.check(config, ROOT / "config/schema/config.schema.yaml")
    monkeypatch.setattr(study_cost, "scan", lambda config: (3.6, 10**6, 0.36, [50.0, 150.0]))  # a second a copy
    monkeypatch.setattr(study_cost, "evaluation", lambda images, size, *_: images * size[1] / 128)
    monkeypatch.setattr(study_cost, "anomalies", lambda *_: 0.0)
    monkeypatch.setattr(study_cost, "planned", lambda scans: {"total": 2 * jobs["total"]})
    jobs = {"preprocess": 3, "quality": 1, "intake": 1, "samples": 2, "train": 5, "score": 7, "metrics": 4, "total": 24}
    totals = {"training": 15.7e12 * 0.4 * 3600, "scoring": 0.0, "seconds": 7200.0, "bytes": 1e9, "least": 2, "most": 3}
    study_cost.write_stages(config, {"made": 0, "measured": 1, "scored": 0}, totals, jobs)
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    rows = {name: cells for name, *cells in reversed(lines)}  # of both tables, the first with a name
    scans, runs = study_cost.SCANS, len(config["models"]) * len(config["training"]["seeds"])
    assert rows["scans"][:2] == ["3", f"{scans * 3.6 / 3600:.3g}"]
    assert rows["quality control"][:2] == ["2", f"{(scans + 2 * study_cost.START) / 3600:.3g}"]
    assert rows["training"][2].startswith("1 or ")
    assert rows["scoring"][:2] == ["7", "2"]
    assert rows["metrics"][1] == f"{(runs + 4 * study_cost.START) / 3600:.3g}"
    assert rows["all other jobs"][0] == "1"
    assert rows["pixels"][-2:] == ["2", "2"]


def test_jobs_of_the_study_are_counted():
    jobs = importlib.import_module("study_cost").planned(40)
    assert sum(count for rule, count in jobs.items() if rule != "total") == jobs["total"] > 100
    assert jobs["train"] == 36


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


def test_what_others_take_of_the_machine(monkeypatch):
    snapshots = iter([(100.0, 50.0, 10.0), (200.0, 120.0, 50.0)])  # all, at work, our own: 30 of 100 are of others
    monkeypatch.setattr(side_by_side.Others, "seconds", lambda self: next(snapshots))
    assert side_by_side.Others().share() == pytest.approx(0.3)


def test_what_others_take_is_measured():
    every, busy, own = (after - before for after, before in zip(*reversed(spun()), strict=True))
    assert 0.2 < own <= 0.5  # seconds of this process, which worked for 0.3
    assert own - 0.1 < busy <= every


def spun():
    """What has been counted before and after 0.3 seconds of work."""
    others = side_by_side.Others()
    began = time.process_time()
    while time.process_time() - began < 0.3:
        pass
    return others.before, others.seconds()


def test_a_script_tells_its_rows_and_how_it_went(tmp_path, monkeypatch):
    benchmarks = importlib.import_module("all")
    (tmp_path / "benchmarks").mkdir()
    lines = ["from side_by_side import Row, main", "main(lambda: iter([Row('goal', 'peer', 2.0, 3.0, note='so')]))"]
    (tmp_path / "benchmarks/tiny.py").write_text('"""Tiny."""\n' + "\n".join(lines))
    (tmp_path / "benchmarks/broken.py").write_text('"""Broken."""\nraise SystemExit(1)\n')
    monkeypatch.setattr(benchmarks, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "benchmarks"))
    rows, said = benchmarks.run("tiny", tmp_path)
    assert rows == [side_by_side.Row("goal", "peer", 2.0, 3.0, note="so")]
    assert re.fullmatch(r"`tiny.py`: \d+ s, without torch, \d+% of the machine taken by other processes", said)
    assert benchmarks.run("broken", tmp_path) == ([], "`broken.py`: 0 s, **failed**")


def test_the_page_names_each_goal_and_counts_them():
    benchmarks = importlib.import_module("all")
    rows = [
        side_by_side.Row("one", "", 2.0, 3.0),
        side_by_side.Row("two", "", 4.0, 3.0),
        side_by_side.Row("x", "", None, 1),
    ]
    text = benchmarks.page({"Training": rows, "Scoring": []}, ["`a.py`: 1 s", "`b.py`: 2 s"])
    assert "1 of 2 goals reached." in text
    assert text.count("not reached") == 1
    assert "## Scoring" not in text
    assert text.endswith("Scripts: `a.py`: 1 s; `b.py`: 2 s.")


def test_losses_are_those_of_the_first_steps_in_turns():
    steps = importlib.import_module("steps")
    a, calls = steps.torch.ones(10, 10), []

    def losses(name):
        calls.append(name)
        return (float((a @ a)[0, 0]),)  # 10, by 2,000 operations

    def peer():
        calls.append("peer")
        return [steps.torch.tensor(8.0 if len(calls) > 4 else 10.0)]

    training = SimpleNamespace(losses=losses, seed=lambda: calls.append("seed"))
    seconds, same, operations = steps.alternate_steps(training, ["loss"], peer, against="", rounds=4)
    assert calls == ["loss", "seed", "peer"] * 5
    assert [len(kept) for kept in seconds] == [4, 4]  # the first steps are not timed
    assert operations == 2000
    assert same.value == pytest.approx(0.25)
    assert "of 3 updates" in same.goal


def test_memory_of_a_step_on_a_gpu(monkeypatch):
    steps = importlib.import_module("steps")
    lying, peaks = 2 * 2**20, {"ours": 5 * 2**20, "theirs": 8 * 2**20}
    state = {"peak": lying}
    monkeypatch.setattr(steps.torch.cuda, "reset_peak_memory_stats", lambda: state.update(peak=lying))
    monkeypatch.setattr(steps.torch.cuda, "memory_allocated", lambda: lying)
    monkeypatch.setattr(steps.torch.cuda, "max_memory_allocated", lambda: state["peak"])
    monkeypatch.setattr(steps, "product_rate", lambda kind: 1e9)
    a = steps.torch.ones(10, 10)

    def step(name):
        state.update(peak=peaks[name])
        return a @ a

    ours, peer = SimpleNamespace(step=lambda: step("ours")), lambda: step("theirs")
    works = ours, peer
    (share,) = steps.use_of_machine(2000, *works, [1e-5, 4e-6, 1e-3])  # no GPU
    assert share.value == pytest.approx(20)
    monkeypatch.setattr(steps.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(steps.torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(steps, "in_usual_precision", lambda training, counted: iter([(training, counted)]))
    share, memory, usual = steps.use_of_machine(2000, *works, [1e-5])
    assert usual == (ours, 2000)
    assert share.value == pytest.approx(20)
    assert memory.value == pytest.approx(2)
    assert "3 against 6 MiB" in memory.note


def test_work_on_a_gpu_is_held_against_the_card(monkeypatch):
    steps = importlib.import_module("steps")
    a = torch.ones(10, 10)
    assert not list(steps.use_of_gpu("a batch", lambda: a @ a, lambda: a @ a, [1e-5]))  # there is none
    monkeypatch.setattr(steps, "on_gpu", lambda: True)
    monkeypatch.setattr(steps, "product_rate", lambda kind: 1e9)
    monkeypatch.setattr(steps, "memory", lambda work: 2**20)
    share, memory = steps.use_of_gpu("a batch", lambda: a @ a, lambda: a @ a, [1e-5])
    assert share.value == pytest.approx(20)
    assert memory.goal == "... memory of a batch, at its peak"
    assert memory.value == 1
    assert (steps.batch_size(32, 8), side_by_side.on_gpu()) == (32, False)


def test_work_is_begun_once_before_it_is_timed_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    calls = []
    (seconds,) = side_by_side.alternate(lambda: calls.append(1), rounds=2, warm=0)
    assert (len(seconds), len(calls)) == (2, 3)


def test_a_study_is_planned(monkeypatch):
    planning = importlib.import_module("planning")
    seconds, memory = planning.measure(1, ((40, 4, 60),))
    assert seconds.goal == "Planning 40 scans, 4 a job"
    assert seconds.reached
    assert memory.value > 0  # not what a child of this process has as its peak: the fork had that of pytest


def test_a_training_goes_on_in_the_precision_that_it_takes_by_itself(monkeypatch):
    steps, devices = importlib.import_module("steps"), importlib.import_module("brainuad.devices")
    training = steps.Training(DenoisingAE((16, 16)), steps.noise(2, 16), 1e-3, moved={"flip": 0.5})
    accelerate = devices.accelerate
    asked = []

    def half(settings):
        asked.append(settings["precision"])
        return accelerate({"device": "cpu", "precision": "bf16-mixed"})  # as on a GPU

    monkeypatch.setattr(steps, "accelerate", half)
    monkeypatch.setattr(steps, "product_rate", lambda kind: {torch.bfloat16: 1e9}[kind])
    row, share = steps.in_usual_precision(training, 2000)
    assert asked == ["auto"]
    assert share.value > 0
    assert row.goal == "... in bf16-mixed"
    assert row.wanted is None
    assert 0 < row.low <= row.value <= row.high


def test_figures_of_a_gpu_have_a_page_of_their_own(monkeypatch, tmp_path):
    everything = importlib.import_module("all")
    page, other = tmp_path / "benchmarks.md", tmp_path / "benchmarks_gpu.md"
    for path in (page, other):
        path.write_text(f"before {everything.BEGINNING} old {everything.END} after")
    monkeypatch.setattr(everything, "PAGE", page)
    monkeypatch.setattr(everything, "GPU_PAGE", other)
    everything.write("of a processor", everything.NO_GPU)
    everything.write("of a card", "H200")
    everything.write("of another card", "V100")
    assert "old" not in page.read_text()
    assert page.read_text().startswith("before ")
    assert page.read_text().endswith(" after")
    assert "\n\nof a processor\n\n" in page.read_text()
    assert "of another card" in other.read_text()
    assert "of a card" not in other.read_text()


def test_one_measurement_of_the_bootstrap_is_held_against_both_goals(monkeypatch):
    bootstrap = importlib.import_module("bootstrap")
    for name, value in {"SUBJECTS": 5, "PIXELS": 2000, "RESAMPLES": 10}.items():
        monkeypatch.setattr(bootstrap, name, value)
    strict, error, loose, same = bootstrap.measure()
    assert (strict.wanted, error.wanted, loose.wanted, same.wanted) == (5000, 1.1e-4, 500, 3e-5)
    assert (strict.value, error.value) == (loose.value, same.value)
    assert error.value < 0.01


def test_pooled_numbers_are_those_of_the_peers():
    rows = list(importlib.import_module("pooled_metrics").measure(2, 3))
    errors = [row for row in rows if "difference" in row.goal]
    assert len(errors) == 4
    assert all(row.reached for row in errors)
    assert {row.unit for row in rows} == {"×", "", "GiB"}
