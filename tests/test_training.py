"""Training on tiny simulated sample sets: resume, checkpoints, splits, schedule, failure."""

import json
import math
import os
import signal
import time

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brainuad.condensing import condensed
from brainuad.devices import automatic_precision, check_kernels, has_kernels
from brainuad.interruption import Interrupted, Interruption
from brainuad.models import available, class_of, load
from brainuad.models.detector import Detector
from brainuad.models.floors import VoxelMean
from brainuad.models.vqvae import VQVAE as Network
from brainuad.progress import Progress, clock
from brainuad.sample_set import Images, SampleSet
from brainuad.schedule import learning_rate
from brainuad.training import Run, accelerate, train
from conftest import ROOT
from tiny import build, use_all_codes

SIZE = (32, 32)
TRUNK = ROOT / "resources/lpips/alexnet_features.safetensors"
AUGMENTATION = {"rotation": 10.0, "translation": 0.1, "scaling": 0.1, "flip": 0.5}
VQVAE = {
    "class": "vqvae.VQVAE",
    "params": {"channels": [4, 4], "residual_units": 1, "codes": 4, "code_channels": 4},
}


OUTPUTS = {
    "model": "model.safetensors",
    "description": "model.json",
    "history": "history.tsv",
    "cost": "cost.json",
}


def entry(**changes):
    training = {
        "device": "cpu",
        "precision": "auto",
        "augmentation": AUGMENTATION,
        "checkpoint_every": 2,
        "validate_every": 2,
    }
    return {**VQVAE, "batch_size": 4, "epochs": 5, "lr": 1e-3, "training": training, **changes}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A sample set whose test rows would turn any loss into nan."""
    folder = tmp_path_factory.mktemp("cohort")
    splits = ["train"] * 5 + ["test"] * 3 + ["validation"] * 3 + ["train"] * 5
    images = np.random.default_rng(0).uniform(0, 1, (len(splits), 1, *SIZE)).astype(np.float32)
    images[[split == "test" for split in splits]] = np.nan
    np.save(folder / "images.npy", images)
    table = pd.DataFrame({"sample": range(len(splits)), "split": splits})
    table.to_csv(folder / "table.tsv", sep="\t", index=False)
    return folder


def run(folder, cohort, settings, seed=1, **options):
    folder.mkdir(exist_ok=True)
    paths = {key: folder / name for key, name in OUTPUTS.items()}
    train([cohort], **paths, settings=settings, seed=seed, **options)
    return load(folder / "model.safetensors").state_dict(), pd.read_csv(folder / "history.tsv", sep="\t")


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def killed(monkeypatch):
    """Starts a run and kills it in its fourth epoch, after the checkpoint of the second."""

    def start(folder, cohort, settings, **options):
        train_epoch = Run.train_epoch

        def fail(self, epoch):
            if epoch == 3:
                raise KeyboardInterrupt
            return train_epoch(self, epoch)

        with monkeypatch.context() as patch:
            patch.setattr(Run, "train_epoch", fail)
            with pytest.raises(KeyboardInterrupt):
                run(folder, cohort, settings, **options)
        assert (folder / "checkpoint.pt").exists()
        assert not (folder / "model.safetensors").exists()

    return start


def test_resumed_equals_uninterrupted(tmp_path, cohort, killed, capsys, monkeypatch):
    step = Detector.step

    def noisy(self, x, optimizers, backward):
        return step(self, x + 0.1 * torch.randn_like(x), optimizers, backward)

    monkeypatch.setattr(Detector, "step", noisy)  # a model that draws random numbers of its own
    settings = entry(min_lr=1e-5, warmup_epochs=1)
    whole, history = run(tmp_path / "whole", cohort, settings)
    killed(tmp_path / "resumed", cohort, settings)
    resumed, resumed_history = run(tmp_path / "resumed", cohort, settings)
    assert "goes on after epoch 2" in capsys.readouterr().out
    assert same(whole, resumed)
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), resumed_history.drop(columns="seconds"))
    assert json.loads((tmp_path / "resumed" / "cost.json").read_text())["starts"] == 2
    assert not (tmp_path / "resumed" / "checkpoint.pt").exists()


def test_a_prior_encodes_images_once_if_none_is_moved(tmp_path, cohort, killed, monkeypatch):
    run(tmp_path / "vqvae", cohort, entry(epochs=1))
    params, still = {"width": 8, "depth": 1, "heads": 1}, dict.fromkeys(AUGMENTATION, 0.0)
    settings = entry(**{"class": "vqvae_transformer.VQVAETransformer", "params": params})
    settings["training"] = settings["training"] | {"augmentation": still}
    options, calls = {"upstream": tmp_path / "vqvae/model.safetensors"}, []
    encode = Network.encode
    monkeypatch.setattr(Network, "encode", lambda self, x: calls.append(len(x)) or encode(self, x))
    once, history = run(tmp_path / "once", cohort, settings, **options)
    assert calls == [4, 4, 2, 3, 3, 3]  # ten training images, then three of validation at the ends of epochs 2, 4 and 5
    killed(tmp_path / "resumed", cohort, settings, **options)
    assert same(once, run(tmp_path / "resumed", cohort, settings, **options)[0])
    moved = settings | {"training": settings["training"] | {"augmentation": still | {"flip": 1e-9}}}  # in effect still
    calls.clear()
    always, other = run(tmp_path / "always", cohort, moved, **options)
    assert sum(calls) == 5 * 10 + 3 * 3
    assert same(once, always)
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), other.drop(columns="seconds"))


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    size=st.one_of(st.tuples(*[st.integers(3, 8)] * 2), st.tuples(*[st.integers(2, 3)] * 3)),
    splits=st.lists(st.sampled_from(["train", "train", "test"]), max_size=9),
    batch_size=st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
def test_codes_kept_of_all_images_are_those_of_each(tmp_path_factory, size, splits, batch_size, seed):
    size, splits, folder = tuple(4 * side for side in size), ["train", *splits], tmp_path_factory.mktemp("samples")
    pixels = np.random.default_rng(seed).random((len(splits), 1, *size), np.float32)
    np.save(folder / "images.npy", pixels)
    pd.DataFrame({"split": splits}).to_csv(folder / "table.tsv", sep="\t", index=False)
    model = build("vqvae_transformer.VQVAETransformer", size).train()
    use_all_codes(model.upstream, torch.from_numpy(pixels))
    layout = torch.channels_last if len(size) == 2 else torch.contiguous_format
    fabric, images = accelerate({"device": "cpu", "precision": "32-true"}), Images([SampleSet(folder)], "train")
    found = condensed(model, images, batch_size, fabric, layout)
    kept = [image[None] for image, split in zip(pixels, splits, strict=True) if split == "train"]
    with torch.no_grad():
        expected = np.stack([model.upstream.encode(torch.from_numpy(image)).numpy() for image in kept])
    assert not np.issubdtype(found.dtype, np.floating)
    np.testing.assert_array_equal(found, expected)


class AfterSteps(Interruption):
    """Asks to save, then to stop, after so many questions of the training."""

    def __init__(self, save, stop):
        super().__init__()
        self.countdowns = {"save": save, "stop": stop}

    def wanted(self):
        for name in self.countdowns:
            self.countdowns[name] -= 1
            setattr(self, name, getattr(self, name) or self.countdowns[name] == 0)
        return super().wanted()


@pytest.mark.parametrize("class_name", ["vqvae.VQVAE", "rae.RAE", "swin_mae.SwinMAE"])
def test_stopped_within_epochs_equals_uninterrupted(tmp_path, cohort, class_name):
    settings = tiny_entry(class_name) | {"epochs": 3, "min_lr": 1e-5}
    whole, history = run(tmp_path / "whole", cohort, settings)
    for stop in (2, 3, 2):  # 3 batches an epoch: within the first epoch, at the end of the second, within the third
        with pytest.raises(Interrupted, match="goes on"):
            run(tmp_path / "run", cohort, settings, interruption=AfterSteps(1, stop))
        assert not (tmp_path / "run" / "model.safetensors").exists()
    resumed, resumed_history = run(tmp_path / "run", cohort, settings)
    assert same(whole, resumed)
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), resumed_history.drop(columns="seconds"))
    assert json.loads((tmp_path / "run" / "cost.json").read_text())["starts"] == 4


def test_asked_to_save_it_saves_once_and_goes_on(tmp_path, cohort, monkeypatch, capsys):
    settings = entry()
    settings["training"] = {**settings["training"], "checkpoint_every": 100}
    run(tmp_path / "run", cohort, settings, interruption=AfterSteps(4, 100))
    assert capsys.readouterr().out.count("saved on request in epoch 2, batch 1") == 1


def test_signals_are_noted_and_forked_children_ignore_them():
    handlers = [signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)]
    interruption = Interruption()
    try:
        interruption.listen()
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(1)
        for number in (signal.SIGUSR2, signal.SIGTERM):
            os.kill(child, number)
        time.sleep(0.2)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert interruption.wanted() == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.wanted() == 1
        interruption.saved = True
        assert interruption.wanted() == 0
        os.kill(os.getpid(), signal.SIGUSR2)
        assert interruption.wanted() == 2
    finally:
        for number, handler in zip((signal.SIGUSR2, signal.SIGTERM), handlers, strict=True):
            signal.signal(number, handler)


CUDA_12_8 = ["sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_110", "sm_120", "compute_120"]


def test_machine_code_runs_within_a_major_version_and_intermediate_code_on_newer_cards():
    assert has_kernels((7, 0), CUDA_12_8)
    assert not has_kernels((7, 0), CUDA_13)
    assert has_kernels((8, 9), CUDA_13)  # by sm_86
    assert not has_kernels((7, 2), ["sm_75"])
    assert not has_kernels((9, 0), ["sm_86"])
    assert has_kernels((9, 0), ["sm_75", "compute_80"])
    assert not has_kernels((7, 0), ["compute_80"])
    assert has_kernels((9, 0), ["sm_90a"])
    assert not has_kernels((10, 3), ["sm_100a"])
    assert has_kernels((10, 3), ["sm_100f"])


def test_a_card_that_torch_has_no_code_for_is_refused_with_what_to_install():
    check_kernels("Tesla V100", (7, 0), CUDA_12_8, "2.10.0")
    check_kernels("Instinct MI250X", (9, 0), ["gfx90a"], "2.10.0")
    with pytest.raises(
        ValueError, match=r"Tesla V100 is of capability 7\.0 \(sm_70\).* 2\.12\.0.*pip install torch==2\.10\.0"
    ):
        check_kernels("Tesla V100", (7, 0), CUDA_13, "2.12.0")
    with pytest.raises(ValueError, match="cu126"):
        check_kernels("Tesla P100", (6, 0), CUDA_12_8, "2.10.0")
    with pytest.raises(ValueError, match=r"11\.0 \(sm_110\).*names sm_110 .*only some for CUDA 13") as error:
        check_kernels("Thor", (11, 0), CUDA_12_8, "2.10.0")
    assert "pip install" not in str(error.value)
    check_kernels("Thor", (11, 0), CUDA_13, "2.10.0")
    with pytest.raises(ValueError, match="install a newer torch"):
        check_kernels("Next", (13, 0), CUDA_12_8, "2.10.0")
    with pytest.raises(ValueError, match=r"set training\.device to cpu"):
        check_kernels("Tesla K80", (3, 7), CUDA_12_8, "2.10.0")


def test_precision_follows_the_card():
    cards = {(6, 0): "32-true", (7, 0): "16-mixed", (7, 5): "16-mixed", (8, 0): "bf16-mixed", (9, 0): "bf16-mixed"}
    assert {capability: automatic_precision(capability) for capability in cards} == cards


def test_seed_decides(tmp_path, cohort):
    settings = entry(epochs=1)
    first, _ = run(tmp_path / "a", cohort, settings)
    again, _ = run(tmp_path / "b", cohort, settings)
    other, _ = run(tmp_path / "c", cohort, settings, seed=2)
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize("change", ["settings", "seed", "truncated", "empty", "images"])
def test_checkpoint_of_another_run_or_damaged_is_ignored(tmp_path, cohort, killed, capsys, change):
    settings, seed, message = entry(), 1, "belongs to other"
    killed(tmp_path / "run", cohort, settings)
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    if change == "settings":
        settings = entry(lr=2e-3)
    elif change == "seed":
        seed = 2
    elif change == "images":
        other = tmp_path / "cohort"
        other.mkdir()
        np.save(other / "images.npy", np.load(cohort / "images.npy") / 2)
        (other / "table.tsv").write_bytes((cohort / "table.tsv").read_bytes())
        cohort = other
    else:
        content = checkpoint.read_bytes()
        checkpoint.write_bytes(content[: len(content) // 2] if change == "truncated" else b"")
        message = "cannot be read"
    weights, _ = run(tmp_path / "run", cohort, settings, seed)
    assert message in capsys.readouterr().out
    assert same(weights, run(tmp_path / "fresh", cohort, settings, seed)[0])
    assert json.loads((tmp_path / "run" / "cost.json").read_text())["starts"] == 1


def test_outputs(tmp_path, cohort):
    _, history = run(tmp_path / "run", cohort, entry())
    terms = ["loss", "reconstruction", "commitment"]
    assert list(history) == ["epoch", "lr", "seconds", *terms, *[f"validation_{term}" for term in terms]]
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5]
    # Validated at each second epoch and at the last; test rows are nan, so any touch of them would show.
    assert history["validation_loss"].notna().tolist() == [False, True, False, True, True]
    assert history["loss"].notna().all()
    cost = json.loads((tmp_path / "run" / "cost.json").read_text())
    assert (cost["epochs"], cost["starts"], cost["precision"]) == (5, 1, "32-true")
    model = load(tmp_path / "run" / "model.safetensors")
    assert cost["parameters"] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert cost["images_per_second"] == pytest.approx(50 / history["seconds"].sum(), rel=1e-3)
    assert cost["wall_seconds"] > history["seconds"].sum()
    assert cost["peak_memory_meaning"] == "resident in the process"
    assert cost["peak_memory_mb"] > 50
    metadata = json.loads((tmp_path / "run" / "model.json").read_text())["metadata"]
    assert metadata["seed"] == 1
    assert metadata["versions"]["torch"] == torch.__version__.split("+")[0]
    assert len(metadata["settings_sha256"]) == 64


def test_validation_is_without_augmentation_and_in_eval_mode(tmp_path, cohort):
    _, history = run(tmp_path / "run", cohort, entry(epochs=1))
    model = load(tmp_path / "run" / "model.safetensors")
    x = torch.from_numpy(np.load(cohort / "images.npy")[8:11])
    with torch.no_grad():
        assert history["validation_loss"].iloc[0] == pytest.approx(model.loss(x)["loss"].item(), rel=1e-5)


def test_two_sample_sets_are_joined(tmp_path, cohort):
    images = []
    original = VoxelMean.fit

    def spy(self, batches):
        images.extend(batches)
        original(self, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VoxelMean, "fit", spy)
        settings = entry(**{"class": "floors.VoxelMean", "params": {}})
        paths = {key: tmp_path / name for key, name in OUTPUTS.items()}
        train([cohort, cohort], **paths, settings=settings, seed=0)
    assert sum(map(len, images)) == 20
    expected = np.concatenate(images).astype(np.float64).mean(0)
    np.testing.assert_allclose(load(paths["model"]).mean[0].numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("class_name", available())
def test_every_model_trains(tmp_path, cohort, class_name):
    cls = class_of(class_name)
    upstream = None
    if cls.requires:
        run(tmp_path / "upstream", cohort, tiny_entry(cls.requires))
        upstream = tmp_path / "upstream" / "model.safetensors"
    weights, history = run(tmp_path / "run", cohort, tiny_entry(class_name), upstream=upstream)
    assert len(history) == 1
    assert np.isfinite(history[["loss", "validation_loss"]]).all(axis=None)
    if upstream:
        trained = load(upstream).state_dict()
        assert all(torch.equal(weights[f"upstream.{name}"], value) for name, value in trained.items())


def tiny_entry(class_name):
    return entry(**{"class": class_name, "params": class_of(class_name).tiny, "epochs": 1})


def test_given_weights_are_taken_as_they_are_or_trained_on(tmp_path, cohort):
    first, _ = run(tmp_path / "first", cohort, entry())
    weights = tmp_path / "first" / "model.safetensors"
    same_again, history = run(tmp_path / "kept", cohort, entry(epochs=0), weights=weights)
    assert same(first, same_again)
    assert history["epoch"].tolist() == [0]
    assert np.isfinite(history[["loss", "validation_loss"]]).all(axis=None)
    assert json.loads((tmp_path / "kept" / "cost.json").read_text())["epochs"] == 0
    _, further = run(tmp_path / "further", cohort, entry(epochs=1), weights=weights)
    _, fresh = run(tmp_path / "fresh", cohort, entry(epochs=1))
    assert further["validation_loss"].iloc[0] < fresh["validation_loss"].iloc[0]


def test_weights_that_do_not_belong_are_refused(tmp_path, cohort):
    run(tmp_path / "vqvae", cohort, entry(epochs=1))
    run(tmp_path / "other", cohort, entry(epochs=1), seed=2)
    prior = entry(**{"class": "vqvae_transformer.VQVAETransformer", "params": {"width": 8, "depth": 1, "heads": 1}})
    prior["epochs"] = 1
    vqvae, other = (tmp_path / name / "model.safetensors" for name in ("vqvae", "other"))
    run(tmp_path / "prior", cohort, prior, upstream=vqvae)
    weights = tmp_path / "prior" / "model.safetensors"
    with pytest.raises(ValueError, match=r"holds a vqvae_transformer\.VQVAETransformer, not a vqvae\.VQVAE"):
        run(tmp_path / "run", cohort, entry(), weights=weights)
    with pytest.raises(ValueError, match="was trained upon another model"):
        run(tmp_path / "run", cohort, prior, upstream=other, weights=weights)
    with pytest.raises(ValueError, match="does not fit the params of the model's entry: size mismatch for network"):
        run(tmp_path / "run", cohort, entry(params={**VQVAE["params"], "codes": 8}), weights=vqvae)
    backwards = {**prior, "params": {**prior["params"], "orderings": ["raster-x"]}}
    with pytest.raises(ValueError, match=r"was trained with orderings \['raster'\]"):
        run(tmp_path / "run", cohort, backwards, upstream=vqvae, weights=weights)
    kept, _ = run(tmp_path / "run", cohort, {**prior, "epochs": 0}, upstream=vqvae, weights=weights)
    assert same(kept, load(weights).state_dict())


def test_options_of_test_time_may_differ_from_those_of_given_weights(tmp_path, cohort):
    params = {"width": 12, "heads": [2, 4], "unit": 8}
    settings = entry(**{"class": "swin_mae.SwinMAE", "params": params, "epochs": 1})
    run(tmp_path / "first", cohort, settings)
    weights = tmp_path / "first" / "model.safetensors"
    more = {**settings, "epochs": 0, "params": {**params, "permutations": 3, "seed": 7}}
    run(tmp_path / "more", cohort, more, weights=weights)
    model = load(tmp_path / "more" / "model.safetensors")
    assert model.dealings.shape[0] == 3
    assert not torch.equal(model.dealings[:1], load(weights).dealings)


def test_a_perceptual_term_gets_its_distance_and_leaves_no_trace_in_the_weights(tmp_path, cohort):
    settings = entry(epochs=1, params={**VQVAE["params"], "perceptual_term": 0.5})
    with pytest.raises(ValueError, match="needs the weights of its trunk"):
        run(tmp_path / "run", cohort, settings)
    weights, history = run(tmp_path / "run", cohort, settings, trunk=TRUNK)
    plain, _ = run(tmp_path / "plain", cohort, entry(epochs=1))
    assert weights.keys() == plain.keys()
    assert not same(weights, plain)
    assert history["perceptual"].iloc[0] > 0


def test_the_description_tells_how_images_for_the_model_are_made(tmp_path, cohort):
    samples, preprocessing = {"size": [32, 32], "spacing": 2.0}, {"resolution": 2.0}
    run(tmp_path / "run", cohort, entry(epochs=1, samples=samples, preprocessing=preprocessing))
    metadata = json.loads((tmp_path / "run" / "model.json").read_text())["metadata"]
    assert (metadata["samples"], metadata["preprocessing"]) == (samples, preprocessing)


def test_mixed_precision_keeps_weights_in_full(tmp_path, cohort):
    settings = entry()
    settings["training"] = {**settings["training"], "precision": "bf16-mixed"}
    weights, history = run(tmp_path / "run", cohort, settings)
    assert all(value.dtype == torch.float32 for value in weights.values())
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    full, _ = run(tmp_path / "full", cohort, entry())
    assert not same(weights, full)


def test_loss_that_is_not_finite_stops_training(tmp_path, cohort, monkeypatch):
    step, updates = Detector.step, []

    def explode(self, x, optimizers, backward):
        updates.append(1)
        terms = step(self, x, optimizers, backward)
        return terms | {"commitment": terms["loss"] * math.inf} if len(updates) > 7 else terms

    monkeypatch.setattr(Detector, "step", explode)
    with pytest.raises(
        ValueError, match=r"epoch 3 because loss term 'commitment' is inf; .*after epoch 2, is in .*checkpoint\.pt"
    ):
        run(tmp_path / "run", cohort, entry())
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(("broken_update", "epoch", "saved"), [(6, 2, False), (9, 3, True), (15, 5, True)])
def test_a_broken_weight_is_neither_saved_nor_handed_on(tmp_path, cohort, monkeypatch, broken_update, epoch, saved):
    step, updates = Detector.step, []

    def break_afterwards(self, x, optimizers, backward):
        updates.append(1)
        terms = step(self, x, optimizers, backward)
        if len(updates) == broken_update:  # the last of an epoch: the loss of before does not show it
            next(self.parameters()).data.fill_(math.nan)
        return terms

    monkeypatch.setattr(Detector, "step", break_afterwards)
    settings = entry()
    settings["training"] = {**settings["training"], "validate_every": 100}
    with pytest.raises(ValueError, match=rf"stopped in epoch ({epoch}|{epoch + 1}) because .* (is not finite|is nan);"):
        run(tmp_path / "run", cohort, settings)
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    assert checkpoint.exists() == saved
    if saved:
        state = torch.load(checkpoint, weights_only=True)["model"]
        assert all(value.isfinite().all() for value in state.values())
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_learning_rate_in_closed_form():
    assert learning_rate(3.7, 10, 1e-3) == 1e-3
    assert learning_rate(0, 10, 1e-3, warmup_epochs=2) == 0
    assert learning_rate(0.5, 10, 1e-3, 1e-6, 2) == pytest.approx(0.25e-3)
    assert learning_rate(2, 10, 1e-3, 1e-6, 2) == pytest.approx(1e-3)
    assert learning_rate(6, 10, 1e-3, 1e-6, 2) == pytest.approx((1e-3 + 1e-6) / 2)
    quarter = 1e-6 + (1e-3 - 1e-6) * (1 + math.sqrt(0.5)) / 2
    assert learning_rate(4, 10, 1e-3, 1e-6, 2) == pytest.approx(quarter)
    assert learning_rate(10, 10, 1e-3, 1e-6) == pytest.approx(1e-6)


def test_schedule_reaches_every_group_of_the_optimisers(tmp_path, cohort, monkeypatch):
    rates = []
    step = Detector.step

    def groups(self, lr):
        first, *rest = [p for p in self.parameters() if p.requires_grad]
        return [torch.optim.Adam([{"params": rest}, {"params": [first], "lr": lr / 10}], lr)]

    def spy(self, x, optimizers, backward):
        rates.append([group["lr"] for group in optimizers[0].param_groups])
        return step(self, x, optimizers, backward)

    monkeypatch.setattr(Detector, "optimizers", groups)
    monkeypatch.setattr(Detector, "step", spy)
    _, history = run(tmp_path / "run", cohort, entry(epochs=2, min_lr=1e-5, warmup_epochs=1))
    expected = [learning_rate(update / 3, 2, 1e-3, 1e-5, 1) for update in range(6)]  # ten images: 4, 4, 2
    np.testing.assert_allclose([rate[0] for rate in rates], expected)
    np.testing.assert_allclose([rate[1] for rate in rates], np.array(expected) / 10)
    np.testing.assert_allclose(history["lr"], [expected[2], expected[5]])


def test_mistakes_are_named(tmp_path, cohort):
    healthy = tmp_path / "untrained"
    healthy.mkdir()
    np.save(healthy / "images.npy", np.zeros((2, 1, *SIZE), np.float32))
    pd.DataFrame({"split": ["test", "test"]}).to_csv(healthy / "table.tsv", sep="\t", index=False)
    with pytest.raises(ValueError, match="no row has the split 'train'"):
        run(tmp_path / "run", healthy, entry())
    with pytest.raises(ValueError, match="16-mixed, which needs a GPU"):
        accelerate({"device": "cpu", "precision": "16-mixed"})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_named():
    with pytest.raises(ValueError, match="no GPU"):
        accelerate({"device": "cuda"})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["auto", "16-mixed", "32-true"])
def test_gpu(tmp_path, cohort, killed, precision):
    settings = entry()
    settings["training"] = {**settings["training"], "device": "auto", "precision": precision}
    killed(tmp_path / "run", cohort, settings)
    _, history = run(tmp_path / "run", cohort, settings)
    assert np.isfinite(history["loss"]).all()
    cost = json.loads((tmp_path / "run" / "cost.json").read_text())
    assert cost["peak_memory_meaning"] == "allocated on the GPU by torch"


def test_progress_in_a_log(capsys):
    progress = Progress(100)
    for epoch in range(1, 13):
        progress.update(epoch, 0.0312, 0.0334, 41.0)
    progress.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit(" ", 2)[0] for line in lines] == [
        "epoch 10/100 [#.........] loss 0.0312 validation 0.0334 41 images/s"
    ]
    assert [clock(seconds) for seconds in (5, 151, 3725)] == ["0:05", "2:31", "1:02:05"]


@pytest.mark.parametrize(("done", "left"), [(8.75, "0:08 left"), (8, "0:02 left"), (9, "resumed")])
def test_the_time_left_counts_the_part_of_an_epoch_that_a_resumed_run_makes(capsys, monkeypatch, done, left):
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    progress = Progress(10, done)
    monkeypatch.setattr("time.monotonic", lambda: 102.0)
    progress.update(9, 0.03, None, 41.0)
    assert capsys.readouterr().out.strip().endswith(left)
