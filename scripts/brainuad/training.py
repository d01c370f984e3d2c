"""Training of any ``Detector``: schedule, checkpoints, resume, and what it cost.

Randomness is keyed by seed, epoch and batch and a checkpoint lies between two batches, so a run that is killed and
started again ends on a CPU with the same weights, bit for bit, as one that was not. (On a GPU the order of
atomic sums may differ.) No state of a random generator has to be kept for that.
"""

import json
import math
import platform
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric, seed_everything
from torch import Tensor, nn

from brainuad.augmentation import RandomAffine
from brainuad.condensing import condensed
from brainuad.devices import accelerate
from brainuad.fingerprint import fingerprint
from brainuad.interruption import CONTINUE, STOP, Interrupted, Interruption
from brainuad.models import Detector, begin_with, create, load, provenance, save
from brainuad.perceptual import PerceptualDistance
from brainuad.progress import Progress, peak_memory, read_checkpoint, write_checkpoint
from brainuad.ranks import Ranks
from brainuad.sample_set import Images, SampleSet, split_batches
from brainuad.schedule import learning_rate
from brainuad.shares import held

__all__ = ["train"]

CHECKPOINT = "4"  # count up when a checkpoint's content changes: those of before are then not resumed from
DEFAULT_BATCH_SIZE = 32  # of models that are fitted at once, for which it has no meaning


def train(
    samples: list[Path],
    model: Path,
    description: Path,
    history: Path,
    cost: Path,
    settings: dict,
    seed: int,
    upstream: Path | None = None,
    weights: Path | None = None,
    trunk: Path | None = None,
    checkpoint: Path | None = None,
    gpus: int = 1,
    nodes: int = 1,
    interruption: Interruption | None = None,
) -> None:
    """Train one model on the healthy training images of one or more sample sets.

    Rows with split ``train`` are learnt from, rows with split ``validation`` give the validation loss,
    without augmentation and in eval mode; rows of the split ``test`` are never read. A model without
    trainable parameters sees each training image once, through its ``fit``.

    While training goes on there is a checkpoint. It is resumed from when settings, seed, samples, upstream and
    the shapes of the weights are those it was made with, and removed when all outputs are written.

    Args:
        samples: folders of sample sets, all of one image size.
        model: weights to write (safetensors, the upstream's included).
        description: how to build the model around them, and where it comes from (JSON).
        history: a row an epoch: epoch, lr of its last update, seconds, each loss term, validation_<term>
            (TSV).
        cost: wall time over all starts (of epochs that a checkpoint kept), peak memory, device, speed (JSON).
        settings: the model's entry of the configuration, with the section ``training`` under that name.
        seed: of the initial weights, the order of images, the augmentation and what the model draws itself.
        upstream: weights of the trained model that this one builds on.
        weights: to begin with instead of random ones; with 0 epochs they are taken as they are.
        trunk: weights of the perceptual distance's trunk, for models that measure one in training.
        checkpoint: where to keep it; by default ``checkpoint.pt`` beside the weights.
        gpus: processes on each node that train together, each of which calls this (see ``devices.accelerate``).
        nodes: machines that train together.
        interruption: what asks to save or to stop while training goes on; it is answered after the step.

    Raises:
        ValueError: settings or samples cannot be trained with, or a loss term stopped being finite.
        Interrupted: training stopped on request; called again it goes on.
    """
    sets = [SampleSet(folder) for folder in samples]
    training, validation = Images(sets, "train"), Images(sets, "validation")
    if len(training) == 0:
        raise ValueError(f"{', '.join(map(str, samples))}: no row has the split 'train', so nothing can be learnt.")
    fabric = accelerate(settings["training"], gpus, nodes)
    seed_everything(seed, verbose=False)
    detector = create(
        settings["class"], training.size, settings.get("params") or {}, load(upstream) if upstream else None
    )
    if weights:
        begin_with(detector, weights)
    run = Run(detector, fabric, settings, seed, training, validation, interruption)
    if detector.needs_perceptual:
        detector.perceptual = PerceptualDistance(trunk, smoothing=0).to(fabric.device).mean
    checkpoint = Path(checkpoint or Path(model).with_name("checkpoint.pt"))
    if run.trainable and settings["epochs"] > 0:
        details = [CHECKPOINT, *(f"{name} {tuple(value.shape)}" for name, value in detector.state_dict().items())]
        run.resume(checkpoint, fingerprint(settings, seed, samples, [upstream, weights], details))
        run.learn(checkpoint)
    else:
        run.fit()
    run.refuse_broken_weights(checkpoint)
    if not run.ranks.writes:
        return
    save(detector, model, description, provenance(settings, seed))
    pd.DataFrame(run.rows).to_csv(history, sep="\t", index=False)
    Path(cost).write_text(json.dumps(run.cost(), indent=2) + "\n", encoding="utf-8")
    checkpoint.unlink(missing_ok=True)


class Run:
    """One training run over all its starts."""

    def __init__(
        self,
        detector: Detector,
        fabric: Fabric,
        settings: dict,
        seed: int,
        training: Images,
        validation: Images,
        interruption: Interruption | None = None,
    ):
        self.began = time.monotonic()
        self.fabric, self.settings, self.seed = fabric, settings, seed
        self.training, self.validation = training, validation
        self.ranks, self.interruption = Ranks(fabric), interruption or Interruption()
        self.batch_size = settings.get("batch_size") or DEFAULT_BATCH_SIZE
        if self.batch_size < self.ranks.count:
            raise ValueError(
                f"A batch of {self.batch_size} images cannot be shared by {self.ranks.count} processes: raise the "
                "model's batch_size or lower training.gpus or training.nodes."
            )
        self.detector = fabric.to_device(detector)
        self.layout = torch.channels_last if len(training.size) == 2 else torch.contiguous_format
        for part in detector.modules():  # convolutions over two axes run faster with the channels last in memory
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
                part.to(memory_format=self.layout)
        self.ranks.share_norms(detector)
        self.trainable = sum(p.numel() for p in detector.parameters() if p.requires_grad)
        self.optimizers = []
        if self.trainable:
            self.optimizers = [fabric.setup_optimizers(o) for o in detector.optimizers(settings["lr"])]
        for group in self.groups():
            group["initial_lr"] = group["lr"]
        self.augment = RandomAffine(**settings["training"].get("augmentation", {}))
        self.updates = len(self.batches(np.arange(len(training))))  # in an epoch
        self.rows: list[dict] = []
        # Of the epoch that is going on: batches that are done, the sums of their loss terms, seconds before this start.
        self.position, self.totals, self.epoch_seconds = 0, {}, 0.0
        self.saved = 0  # epochs behind the last checkpoint
        self.seconds_before, self.cpu_before, self.peak_before = 0.0, 0.0, 0.0
        self.starts, self.fingerprint = 1, ""

    def groups(self) -> list[dict]:
        """Parameter groups of all optimisers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def learn(self, checkpoint: Path) -> None:
        """All epochs that are left."""
        schedule, epochs = self.settings["training"], self.settings["epochs"]
        progress = Progress(epochs, len(self.rows) + self.position / self.updates) if self.ranks.writes else None
        self.path = checkpoint
        if self.detector.condenses and self.augment.still:
            self.training = condensed(self.detector, self.training, self.batch_size, self.fabric, self.layout)
        for epoch in range(len(self.rows), epochs):
            self.epoch_began = time.monotonic()
            terms = self.train_epoch(epoch)
            seconds = self.seconds_in_epoch()
            row = {
                "epoch": epoch + 1,
                "lr": self.rate(epoch + 1 - 1 / self.updates),
                "seconds": seconds,
                **terms,
            }
            last = epoch + 1 == epochs
            if len(self.validation) and (last or (epoch + 1) % schedule["validate_every"] == 0):
                row |= {f"validation_{name}": value for name, value in self.evaluate(self.validation).items()}
            self.rows.append(row)
            self.position, self.totals, self.epoch_seconds = 0, {}, 0.0
            self.check(row, checkpoint)
            self.epoch_began = time.monotonic()
            if last or (epoch + 1) % schedule["checkpoint_every"] == 0:
                self.checkpoint(checkpoint)
            if progress:
                progress.update(epoch + 1, row["loss"], row.get("validation_loss"), len(self.training) / seconds)
        if progress:
            progress.close()

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """What is left of one pass over the images in random order; mean of each loss term over all of them."""
        batches = self.batches(self.order(epoch))
        self.detector.train()
        for index in range(self.position, len(batches)):
            self.train_batch(epoch, index, batches[index])
            self.position = index + 1
            self.answer()
        totals = self.ranks.total(self.totals)
        return {name: float(total) / len(self.training) for name, total in totals.items()}

    def train_batch(self, epoch: int, index: int, numbers: np.ndarray) -> None:
        """One step on the images of these numbers, of which this process takes its share."""
        factor = self.rate(epoch + index / self.updates) / self.settings["lr"]
        for group in self.groups():
            group["lr"] = group["initial_lr"] * factor
        augmentation = self.seed_batch(epoch, index)
        share = self.ranks.share(len(numbers))
        images = self.fabric.to_device(torch.from_numpy(self.training[np.sort(numbers)[share.own]]))
        x = self.augment(images, augmentation, share.whole, share.start).contiguous(memory_format=self.layout)
        with self.fabric.autocast(), held(share):
            terms = self.detector.step(x, self.optimizers, partial(self.backward, share.weight))
        share.add(self.totals, terms)

    def batches(self, order: np.ndarray) -> list[np.ndarray]:
        """Numbers of the images of each batch."""
        return split_batches(order, self.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """The order of the images in an epoch."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.training))

    def seed_batch(self, epoch: int, index: int) -> torch.Generator:
        """Seed what the model draws, alike in all processes; give the augmentation's generator."""
        batch = [self.seed, epoch, index + 1]
        seed_everything(int(np.random.SeedSequence([*batch, 1]).generate_state(1)[0]), verbose=False)
        return torch.Generator().manual_seed(int(np.random.SeedSequence(batch).generate_state(1)[0]))

    def answer(self) -> None:
        """Between two steps: save or stop if that was asked of any process.

        Raises:
            Interrupted: to stop was asked; the checkpoint is written.
        """
        wanted = self.ranks.largest(self.interruption.wanted())
        if wanted == CONTINUE:
            return
        self.checkpoint(self.path)
        self.interruption.saved = True
        if self.ranks.writes:
            print(f"{self.path}: saved on request in epoch {len(self.rows) + 1}, batch {self.position}.", flush=True)
        if wanted == STOP:
            raise Interrupted(f"{self.path} holds what the next start goes on from.")

    def rate(self, epoch: float) -> float:
        """Learning rate after so many epochs."""
        entry = self.settings
        return learning_rate(epoch, entry["epochs"], entry["lr"], entry.get("min_lr"), entry.get("warmup_epochs") or 0)

    def backward(self, weight: float, loss: Tensor, **options) -> None:
        """Gradients of the loss of a whole batch, scaled where half precision needs it.

        Autocast is for forward passes only. With several processes gradients are summed over all, so they must be
        zero or None before.

        Args:
            weight: of this process's share in that loss.
            loss: of this process's share.
            **options: of ``Tensor.backward``.
        """
        with torch.autocast(self.fabric.device.type, enabled=False):
            self.fabric.backward(weight * loss, **options)
        self.ranks.sum_gradients(options.get("inputs") or self.detector.parameters())

    @torch.no_grad()
    def evaluate(self, images: Images) -> dict[str, float]:
        """Mean of each loss term over images, in eval mode, unchanged and in order."""
        seed_everything(self.seed, verbose=False)
        self.detector.eval()
        totals: dict[str, Tensor] = {}
        for numbers in split_batches(np.arange(len(images)), self.batch_size):
            share = self.ranks.share(len(numbers))
            x = self.fabric.to_device(torch.from_numpy(images[numbers[share.own]]))
            with self.fabric.autocast(), held(share):
                share.add(totals, self.detector.loss(x.contiguous(memory_format=self.layout)))
        return {name: float(total) / len(images) for name, total in self.ranks.total(totals).items()}

    def fit(self) -> None:
        """Learn without gradients, or nothing if the weights are given; the history gets one row."""
        began = time.monotonic()
        if not self.trainable:
            self.detector.fit(self.training.batches(self.batch_size))
        row = {
            "epoch": 0 if self.trainable else 1,
            "lr": 0.0,
            "seconds": time.monotonic() - began,
            **self.evaluate(self.training),
        }
        if len(self.validation):
            row |= {f"validation_{name}": value for name, value in self.evaluate(self.validation).items()}
        self.rows.append(row)

    def check(self, row: dict[str, float], checkpoint: Path) -> None:
        """Stop when a loss term is not finite."""
        broken = {name: value for name, value in row.items() if not math.isfinite(value)}
        if broken:
            name, value = next(iter(broken.items()))
            self.stop(f"loss term {name!r} is {value}", checkpoint)

    def refuse_broken_weights(self, checkpoint: Path) -> None:
        """Stop when a weight is not finite: the loss, which is of before the last update, does not show it."""
        broken = [name for name, value in self.detector.state_dict().items() if not value.isfinite().all()]
        if broken:
            self.stop(f"weight {broken[0]!r} is not finite", checkpoint)

    def stop(self, why: str, checkpoint: Path) -> None:
        """Raise, with the epoch and the last good checkpoint."""
        epoch = len(self.rows) + (self.position > 0)
        saved = f"the last good state, after epoch {self.saved}, is in {checkpoint}"
        raise ValueError(
            f"Training stopped in epoch {epoch} because {why}; {saved if self.saved else 'no state was saved before'}: "
            "lower the model's lr or set training.precision to 32-true."
        )

    def checkpoint(self, path: Path) -> None:
        """Write all that the next start needs; the file is replaced at once, never half written.

        All processes call this at the same step; one of them writes.
        """
        totals = self.ranks.total(self.totals)
        self.check({name: float(total) for name, total in totals.items()}, path)
        self.refuse_broken_weights(path)
        self.saved = len(self.rows)
        if not self.ranks.writes:
            return
        state = {
            "fingerprint": self.fingerprint,
            "model": self.detector.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "precision": self.fabric.strategy.precision.state_dict(),
            "rows": self.rows,
            "position": self.position,
            "totals": {name: value.cpu() for name, value in totals.items()},
            "epoch_seconds": self.seconds_in_epoch(),
            "seconds": self.seconds(),
            "cpu_seconds": self.cpu_seconds(),
            "peak_memory_mb": self.peak_memory(),
            "starts": self.starts,
        }
        write_checkpoint(path, state)

    def resume(self, path: Path, fingerprint: str) -> None:
        """Continue from a checkpoint if there is one of this very run."""
        self.fingerprint = fingerprint
        state = read_checkpoint(path, fingerprint)
        if state is None:
            return
        self.detector.load_state_dict(state["model"])
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.rows, self.seconds_before, self.cpu_before = state["rows"], state["seconds"], state["cpu_seconds"]
        self.saved = len(self.rows)
        self.position, self.epoch_seconds = state["position"], state["epoch_seconds"]
        if self.ranks.writes:  # the sums are of all processes
            self.totals = {name: self.fabric.to_device(value) for name, value in state["totals"].items()}
        self.peak_before, self.starts = state["peak_memory_mb"], state["starts"] + 1
        within = f", batch {self.position} of the next" if self.position else ""
        print(f"{path}: training goes on after epoch {len(self.rows)}{within}.", flush=True)

    def seconds_in_epoch(self) -> float:
        """Time that the epoch which is going on has taken, over all starts."""
        return self.epoch_seconds + time.monotonic() - self.epoch_began

    def seconds(self) -> float:
        """Wall time of all starts."""
        return self.seconds_before + time.monotonic() - self.began

    def cpu_seconds(self) -> float:
        """Processor time of all starts of this process, imports included."""
        return self.cpu_before + time.process_time()

    def peak_memory(self) -> float:
        """Largest memory of all starts, MB."""
        return max(self.peak_before, peak_memory(self.fabric.device))

    def cost(self) -> dict:
        """What the run took."""
        gpu = self.fabric.device.type == "cuda"
        threads = torch.get_num_threads()
        processor = f"{platform.machine()}, {threads} thread{'s' * (threads > 1)}"
        seconds, epochs = sum(row["seconds"] for row in self.rows), int(self.rows[-1]["epoch"])
        return {
            "wall_seconds": self.seconds(),
            "cpu_seconds": self.ranks.count * self.cpu_seconds(),  # of several processes the others take as long
            "peak_memory_mb": self.peak_memory(),
            "peak_memory_meaning": "allocated on the GPU by torch" if gpu else "resident in the process",
            "device": torch.cuda.get_device_name() if gpu else processor,
            "precision": self.fabric.strategy.precision.precision,
            "images_per_second": len(self.training) * epochs / seconds,
            "epochs": epochs,
            "parameters": self.trainable,
            "processes": self.ranks.count,
            "starts": self.starts,
        }
