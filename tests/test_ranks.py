"""Several processes that train one model together, on the CPU, against one process on the same batches."""

import contextlib
import multiprocessing
import os
import socket
import traceback

import numpy as np
import pandas as pd
import pytest
import torch

from brainuad.interruption import Interrupted, Interruption
from brainuad.models import available, class_of, create, load, save
from brainuad.perceptual import PerceptualDistance
from brainuad.sample_set import Images
from brainuad.shares import Share, held, total, whole_batch
from brainuad.training import Run, train
from conftest import ROOT
from tiny import use_all_codes

OUTPUTS = {"model": "model.safetensors", "description": "model.json", "history": "history.tsv", "cost": "cost.json"}
TRUNK = ROOT / "resources/lpips/alexnet_features.safetensors"
CHANGES = {
    "vqvae": {"class": "vqvae.VQVAE"},
    "vqvae with all terms": {
        "class": "vqvae.VQVAE",
        "params": {
            "perceptual_term": 0.01,
            "adversarial_term": 0.01,
            "discriminator_channels": 4,
            "discriminator_levels": 1,
        },
    },
    "swin_mae": {"class": "swin_mae.SwinMAE", "params": {"stochastic_depth": 0.5}},
    "rae": {"class": "rae.RAE"},
    "rae with live statistics": {"class": "rae.RAE", "params": {"batch_norm": "live"}},
    "vqvae_transformer": {
        "class": "vqvae_transformer.VQVAETransformer",
        "params": {"orderings": ["raster", "transposed-xy"]},
        "requires": "vqvae",
    },
    "dae": {"class": "dae.DenoisingAE"},
    "diffusion": {"class": "diffusion.Diffusion"},
    "diffusion with a pyramid": {
        "class": "diffusion.Diffusion",
        "params": {"noise": "pyramid", "period": 8, "octaves": 2},
    },
    "interrupted": {"class": "vqvae.VQVAE", "stop": 2},
}
PROCESSES = 3


def settings(name):
    change = CHANGES[name]
    params = {**class_of(change["class"]).tiny, **change.get("params", {})}
    training = {"device": "cpu", "precision": "auto", "checkpoint_every": 1, "validate_every": 1}
    return {"batch_size": 5, "epochs": 2, "lr": 1e-3, "training": training, **change, "params": params}


class StopOnOneRank(Interruption):
    """Asks to stop after some steps."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def wanted(self):
        self.steps -= 1
        self.stop = self.steps == 0
        return super().wanted()


@contextlib.contextmanager
def double_precision():
    """Within it a training computes in double precision, also what asks for single precision; gives the patches."""
    read = Images.__getitem__
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "float", torch.Tensor.double)
            patch.setattr(Images, "__getitem__", lambda images, numbers: read(images, numbers).astype(np.float64))
            patch.setattr("brainuad.training.PerceptualDistance", lambda *a, **b: PerceptualDistance(*a, **b).double())
            yield patch
    finally:
        torch.set_default_dtype(torch.float32)


def train_one(cohort, folder, name, rank=0, count=1):
    """Train as one process of several; each keeps what it has learnt."""
    entry, interruption = settings(name), None
    stop, upstream = entry.pop("stop", None), cohort / "upstream.safetensors" if "requires" in entry else None
    if stop and rank == count - 1 and count > 1 and not (folder / "stopped").exists():
        interruption = StopOnOneRank(stop)
    folder.mkdir(exist_ok=True)
    learn = Run.learn

    def learn_and_keep(self, checkpoint):
        learn(self, checkpoint)
        torch.save(self.detector.state_dict(), folder / f"rank{rank}.pt")

    paths = {key: folder / file for key, file in OUTPUTS.items()} | {"upstream": upstream, "trunk": TRUNK}
    with double_precision() as patch:
        patch.setattr(Run, "learn", learn_and_keep)
        train([cohort], **paths, settings=entry, seed=1, gpus=count, interruption=interruption)


def process(rank, port, cohort, folder, errors):
    """One of several processes: trains every model in turn."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(PROCESSES),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
    )
    torch.set_num_threads(1)
    try:
        for name in CHANGES:
            try:
                train_one(cohort, folder / name, name, rank, PROCESSES)
            except Interrupted:
                torch.distributed.barrier()
                (folder / name / "stopped").touch()
                train_one(cohort, folder / name, name, rank, PROCESSES)
    except Exception:
        errors.put(f"rank {rank}, {name}: {traceback.format_exc()}")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Seventeen training images and a model to build on.

    Of a batch of five, three processes have one, two and two images; of the last, of two images, each has both.
    """
    folder = tmp_path_factory.mktemp("cohort")
    images = np.random.default_rng(0).uniform(0, 1, (20, 1, 32, 32)).astype(np.float32)
    np.save(folder / "images.npy", images)
    pd.DataFrame({"split": ["train"] * 17 + ["validation"] * 3}).to_csv(folder / "table.tsv", sep="\t", index=False)
    torch.manual_seed(0)
    upstream = create("vqvae.VQVAE", (32, 32), class_of("vqvae.VQVAE").tiny)
    use_all_codes(upstream, torch.from_numpy(images[:8]))
    save(upstream, folder / "upstream.safetensors", folder / "upstream.json", {})
    return folder


@pytest.fixture(scope="module")
def together(tmp_path_factory, cohort):
    """The runs of all processes."""
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    errors = context.Queue()
    processes = [
        context.Process(target=process, args=(rank, port, cohort, folder, errors), daemon=True)
        for rank in range(PROCESSES)
    ]
    for one in processes:
        one.start()
    for one in processes:
        one.join(timeout=300)
    assert errors.empty(), errors.get()
    assert [one.exitcode for one in processes] == [0] * PROCESSES
    return folder


def outcome(folder):
    return load(folder / "model.safetensors").state_dict(), pd.read_csv(folder / "history.tsv", sep="\t")


def test_every_model_that_learns_is_met():
    met = {change["class"] for change in CHANGES.values()}
    assert met == {name for name in available() if not name.startswith("floors.")}


@pytest.mark.parametrize("name", CHANGES)
def test_losses_and_weights_equal_those_of_one_process(tmp_path, cohort, together, name):
    """Over eight steps, but for the order in which sums are rounded.

    In double precision, where that is about 1e-14: in single precision Adam, which divides gradients by their size,
    makes steps of those that are nothing but rounding, and rounding could not be told from a small mistake.
    """
    train_one(cohort, tmp_path / "alone", name)
    weights, history = outcome(tmp_path / "alone")
    shared, shared_history = outcome(together / name)
    np.testing.assert_allclose(shared_history.drop(columns="seconds"), history.drop(columns="seconds"), rtol=1e-9)
    for key, value in weights.items():
        torch.testing.assert_close(shared[key], value, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", CHANGES)
def test_all_processes_hold_the_same_weights(together, name):
    first, *others = (torch.load(together / name / f"rank{rank}.pt") for rank in range(PROCESSES))
    assert all(torch.equal(first[key], other[key]) for other in others for key in first)


def test_a_share_gets_its_part_of_what_is_drawn_for_the_whole_batch():
    assert whole_batch(3) == (3, slice(0, 3))
    with held(Share(whole=5, start=1, stop=3)):
        assert whole_batch(2) == (5, slice(1, 3))
        with pytest.raises(ValueError, match="A draw for 4 images, but this process holds 2"):
            whole_batch(4)
    with held(Share(whole=2, start=0, stop=2, copies=3)):
        assert whole_batch(2) == (2, slice(0, 2))
        assert total(torch.ones(1)) == 1  # all others hold the same images
    assert whole_batch(4) == (4, slice(0, 4))
