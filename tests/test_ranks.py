"""Two processes that train one model together, on the CPU, against one process on the same batches."""

import multiprocessing
import os
import socket
import traceback

import numpy as np
import pandas as pd
import pytest
import torch

from brainuad.interruption import Interrupted, Interruption
from brainuad.models import class_of, create, load, save
from brainuad.training import Run, train
from tiny import use_all_codes

OUTPUTS = {"model": "model.safetensors", "description": "model.json", "history": "history.tsv", "cost": "cost.json"}
CHANGES = {
    "vqvae": {"class": "vqvae.VQVAE"},
    "rae": {"class": "rae.RAE"},
    "rae with live statistics": {"class": "rae.RAE", "params": {"batch_norm": "live"}},
    "swin_mae": {"class": "swin_mae.SwinMAE"},
    "vqvae with a discriminator": {
        "class": "vqvae.VQVAE",
        "params": {"adversarial_term": 0.01, "discriminator_channels": 4, "discriminator_levels": 1},
    },
    "vqvae_transformer": {
        "class": "vqvae_transformer.VQVAETransformer",
        "params": {"orderings": ["raster", "transposed-xy"]},
        "requires": "vqvae",
    },
    "interrupted": {"class": "vqvae.VQVAE", "stop": 2},
}


def settings(name):
    change = dict(CHANGES[name])
    change["params"] = {**class_of(change["class"]).tiny, **change.get("params", {})}
    training = {"device": "cpu", "precision": "auto", "checkpoint_every": 1, "validate_every": 1}
    return {"batch_size": 6, "epochs": 2, "lr": 1e-3, "training": training, **change}


class StopOnOneRank(Interruption):
    """Asks to stop after some steps."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def wanted(self):
        self.steps -= 1
        self.stop = self.steps == 0
        return super().wanted()


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

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "learn", learn_and_keep)
        paths = {key: folder / file for key, file in OUTPUTS.items()}
        train([cohort], **paths, settings=entry, seed=1, gpus=count, interruption=interruption, upstream=upstream)


def process(rank, count, port, cohort, folder, errors):
    """One of several processes: trains every model in turn."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(count),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
    )
    torch.set_num_threads(1)
    try:
        for name in CHANGES:
            try:
                train_one(cohort, folder / name, name, rank, count)
            except Interrupted:
                torch.distributed.barrier()
                (folder / name / "stopped").touch()
                train_one(cohort, folder / name, name, rank, count)
    except Exception:
        errors.put(f"rank {rank}, {name}: {traceback.format_exc()}")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Seventeen training images: batches of 6, 6 and 5, not all of which halve; and a model to build on."""
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
    """The runs of two processes."""
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    errors = context.Queue()
    processes = [
        context.Process(target=process, args=(rank, 2, port, cohort, folder, errors), daemon=True) for rank in range(2)
    ]
    for one in processes:
        one.start()
    for one in processes:
        one.join(timeout=300)
    assert errors.empty(), errors.get()
    assert [one.exitcode for one in processes] == [0, 0]
    return folder


def outcome(folder):
    return load(folder / "model.safetensors").state_dict(), pd.read_csv(folder / "history.tsv", sep="\t")


@pytest.mark.parametrize("names", [("vqvae", "interrupted"), ("vqvae_transformer",)])
def test_losses_and_weights_equal_those_of_one_process(tmp_path, cohort, together, names):
    train_one(cohort, tmp_path / "alone", names[0])
    weights, history = outcome(tmp_path / "alone")
    for name in names:
        shared, shared_history = outcome(together / name)
        np.testing.assert_allclose(shared_history.drop(columns="seconds"), history.drop(columns="seconds"), rtol=1e-5)
        for key, value in weights.items():
            torch.testing.assert_close(shared[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["rae", "rae with live statistics", "swin_mae"])
def test_models_that_draw_numbers_of_their_own_learn_much_the_same(tmp_path, cohort, together, name):
    train_one(cohort, tmp_path / "alone", name)
    _, history = outcome(tmp_path / "alone")
    _, shared = outcome(together / name)
    np.testing.assert_allclose(shared["loss"], history["loss"], rtol=0.05)
    np.testing.assert_allclose(shared["validation_loss"], history["validation_loss"], rtol=0.1)


@pytest.mark.parametrize("name", CHANGES)
def test_all_processes_hold_the_same_weights(together, name):
    first, second = (torch.load(together / name / f"rank{rank}.pt") for rank in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
