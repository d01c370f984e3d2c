"""Training of any ``Detector`` on one device: schedule, checkpoints, resume, and what it cost.

Randomness is keyed by seed and epoch and a checkpoint lies between two epochs, so a run that is killed and
started again ends on a CPU with the same weights, bit for bit, as one that was not. (On a GPU the order of
atomic sums may differ.)
"""

import hashlib
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric, seed_everything
from lightning_fabric.plugins.environments import LightningEnvironment
from torch import Tensor, nn

from brainuad.augmentation import RandomAffine
from brainuad.models import Detector, create, load, provenance, save
from brainuad.perceptual import PerceptualDistance
from brainuad.progress import Progress, peak_memory, read_checkpoint, write_checkpoint
from brainuad.sample_set import Images, SampleSet, split_batches

__all__ = ["learning_rate", "train"]

FINGERPRINT_IMAGES = 16
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
) -> None:
    """Train one model on the healthy training images of one or more sample sets.

    Rows with split ``train`` are learnt from, rows with split ``validation`` give the validation loss,
    without augmentation and in eval mode; rows of the split ``test`` are never read. A model without
    trainable parameters sees each training image once, through its ``fit``.

    Beside the weights lies ``checkpoint.pt`` while training goes on. It is resumed from when settings, seed,
    samples, upstream and the shapes of the weights are those it was made with, and removed when all outputs
    are written.

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

    Raises:
        ValueError: settings or samples cannot be trained with, or a loss term stopped being finite.
    """
    sets = [SampleSet(folder) for folder in samples]
    training, validation = Images(sets, "train"), Images(sets, "validation")
    if len(training) == 0:
        raise ValueError(f"{', '.join(map(str, samples))}: no row has the split 'train', so nothing can be learnt.")
    seed_everything(seed, verbose=False)
    detector = create(
        settings["class"], training.size, settings.get("params") or {}, load(upstream) if upstream else None
    )
    if weights:
        begin_with(detector, weights)
    fabric = accelerate(settings["training"])
    if detector.needs_perceptual:
        detector.perceptual = perceptual_distance(trunk, fabric.device)
    run = Run(detector, fabric, settings, seed, training, validation)
    checkpoint = Path(model).with_name("checkpoint.pt")
    if run.trainable and settings["epochs"] > 0:
        run.resume(checkpoint, fingerprint(settings, seed, sets, [upstream, weights], detector))
        run.learn(checkpoint)
    else:
        run.fit()
    save(detector, model, description, provenance(settings, seed))
    pd.DataFrame(run.rows).to_csv(history, sep="\t", index=False)
    Path(cost).write_text(json.dumps(run.cost(), indent=2) + "\n", encoding="utf-8")
    checkpoint.unlink(missing_ok=True)


def begin_with(detector: Detector, weights: Path) -> None:
    """Give an untrained model the weights of a trained one of its class.

    Raises:
        ValueError: the weights are of another class, do not fit, or were trained upon another upstream.
    """
    trained = load(weights)
    if type(trained) is not type(detector):
        raise ValueError(
            f"{weights} holds a {trained.recipe['class']}, not a {detector.recipe['class']}: correct the `weights` of "
            "the model's entry."
        )
    own, values = detector.state_dict(), trained.state_dict()
    upstream = [name for name in own if name.startswith("upstream.")]
    if any(name not in values or not torch.equal(own[name], values[name]) for name in upstream):
        raise ValueError(
            f"{weights} was trained upon another model than the one that the entry `requires`: give that one the "
            "`weights` it was trained upon, with `epochs: 0`."
        )
    try:
        detector.load_state_dict(values)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{weights} does not fit the params of the model's entry: {reason}") from error


def perceptual_distance(trunk: Path | None, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """The distance that a model measures in training."""
    if trunk is None:
        raise ValueError("This model measures a perceptual distance in training and needs the trunk of LPIPS.")
    return PerceptualDistance(trunk, smoothing=0).to(device).mean


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
    ):
        self.began = time.monotonic()
        self.fabric, self.settings, self.seed = fabric, settings, seed
        self.training, self.validation = training, validation
        self.batch_size = settings.get("batch_size") or DEFAULT_BATCH_SIZE
        self.detector = fabric.to_device(detector)
        self.layout = torch.channels_last if len(training.size) == 2 else torch.contiguous_format
        for part in detector.modules():  # convolutions over two axes run faster with the channels last in memory
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
                part.to(memory_format=self.layout)
        self.trainable = sum(p.numel() for p in detector.parameters() if p.requires_grad)
        self.optimizers = []
        if self.trainable:
            self.optimizers = [fabric.setup_optimizers(o) for o in detector.optimizers(settings["lr"])]
        for group in self.groups():
            group["initial_lr"] = group["lr"]
        self.augment = RandomAffine(**settings["training"].get("augmentation", {}))
        self.updates = len(split_batches(np.arange(len(training)), self.batch_size))  # in an epoch
        self.rows: list[dict] = []
        self.saved = 0  # epochs behind the last checkpoint
        self.seconds_before, self.peak_before, self.starts, self.fingerprint = 0.0, 0.0, 1, ""

    def groups(self) -> list[dict]:
        """Parameter groups of all optimisers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def learn(self, checkpoint: Path) -> None:
        """All epochs that are left."""
        schedule, epochs = self.settings["training"], self.settings["epochs"]
        progress = Progress(epochs, len(self.rows))
        for epoch in range(len(self.rows), epochs):
            began = time.monotonic()
            terms = self.train_epoch(epoch)
            seconds = time.monotonic() - began
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
            self.check(row, checkpoint)
            if last or (epoch + 1) % schedule["checkpoint_every"] == 0:
                self.checkpoint(checkpoint)
            progress.update(epoch + 1, row["loss"], row.get("validation_loss"), len(self.training) / seconds)
        progress.close()

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training images in random order; mean of each loss term over the images."""
        order, augmentation = self.seed_epoch(epoch)
        self.detector.train()
        totals: dict[str, Tensor] = {}
        for index, images in enumerate(self.training.batches(self.batch_size, order)):
            factor = self.rate(epoch + index / self.updates) / self.settings["lr"]
            for group in self.groups():
                group["lr"] = group["initial_lr"] * factor
            x = self.augment(self.fabric.to_device(torch.from_numpy(images)), augmentation)
            x = x.contiguous(memory_format=self.layout)
            with self.fabric.autocast():
                terms = self.detector.step(x, self.optimizers, self.backward)
            add(totals, terms, len(x))
        return {name: float(total) / len(self.training) for name, total in totals.items()}

    def seed_epoch(self, epoch: int) -> tuple[np.ndarray, torch.Generator]:
        """Seed what the model draws; give the order of the images and the generator of the augmentation."""
        own, order, augmentation = np.random.SeedSequence([self.seed, epoch]).generate_state(3).tolist()
        seed_everything(own, verbose=False)
        generator = torch.Generator().manual_seed(augmentation)
        return np.random.default_rng(order).permutation(len(self.training)), generator

    def rate(self, epoch: float) -> float:
        """Learning rate after so many epochs."""
        entry = self.settings
        return learning_rate(epoch, entry["epochs"], entry["lr"], entry.get("min_lr"), entry.get("warmup_epochs") or 0)

    def backward(self, loss: Tensor, **options) -> None:
        """Gradients of a loss, scaled where half precision needs it; autocast is for forward passes only."""
        with torch.autocast(self.fabric.device.type, enabled=False):
            self.fabric.backward(loss, **options)

    @torch.no_grad()
    def evaluate(self, images: Images) -> dict[str, float]:
        """Mean of each loss term over images, in eval mode, unchanged and in order."""
        seed_everything(self.seed, verbose=False)
        self.detector.eval()
        totals: dict[str, Tensor] = {}
        for batch in images.batches(self.batch_size):
            x = self.fabric.to_device(torch.from_numpy(batch)).contiguous(memory_format=self.layout)
            with self.fabric.autocast():
                add(totals, self.detector.loss(x), len(x))
        return {name: float(total) / len(images) for name, total in totals.items()}

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

    def check(self, row: dict, checkpoint: Path) -> None:
        """Stop when a loss term is not finite."""
        broken = {name: value for name, value in row.items() if not math.isfinite(value)}
        if broken:
            name, value = next(iter(broken.items()))
            saved = (
                f"the last good state, after epoch {self.saved}, is in {checkpoint}" if self.saved else "none was saved"
            )
            raise ValueError(
                f"Training stopped in epoch {row['epoch']} because loss term {name!r} is {value}; {saved}: "
                "lower the model's lr or set training.precision to 32-true."
            )

    def checkpoint(self, path: Path) -> None:
        """Write all that the next start needs; the file is replaced at once, never half written."""
        state = {
            "fingerprint": self.fingerprint,
            "model": self.detector.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "precision": self.fabric.strategy.precision.state_dict(),
            "rows": self.rows,
            "seconds": self.seconds(),
            "peak_memory_mb": self.peak_memory(),
            "starts": self.starts,
        }
        write_checkpoint(path, state)
        self.saved = len(self.rows)

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
        self.rows, self.seconds_before = state["rows"], state["seconds"]
        self.saved = len(self.rows)
        self.peak_before, self.starts = state["peak_memory_mb"], state["starts"] + 1
        print(f"{path}: training goes on after epoch {len(self.rows)}.", flush=True)

    def seconds(self) -> float:
        """Wall time of all starts."""
        return self.seconds_before + time.monotonic() - self.began

    def peak_memory(self) -> float:
        """Largest memory of all starts, MB."""
        return max(self.peak_before, peak_memory(self.fabric.device))

    def cost(self) -> dict:
        """What the run took."""
        gpu = self.fabric.device.type == "cuda"
        processor = f"{platform.machine()}, {torch.get_num_threads()} threads"
        seconds, epochs = sum(row["seconds"] for row in self.rows), int(self.rows[-1]["epoch"])
        return {
            "wall_seconds": self.seconds(),
            "peak_memory_mb": self.peak_memory(),
            "peak_memory_meaning": "allocated on the GPU by torch" if gpu else "resident in the process",
            "device": torch.cuda.get_device_name() if gpu else processor,
            "precision": self.fabric.strategy.precision.precision,
            "images_per_second": len(self.training) * epochs / seconds,
            "epochs": epochs,
            "parameters": self.trainable,
            "starts": self.starts,
        }


def add(totals: dict[str, Tensor], terms: dict[str, Tensor], count: int) -> None:
    """Add the terms of a batch to running sums, on the device: reading them here would make a GPU wait."""
    for name, value in terms.items():
        totals[name] = totals.get(name, 0) + value.detach().double() * count


def learning_rate(epoch: float, epochs: int, lr: float, min_lr: float | None = None, warmup_epochs: float = 0) -> float:
    """Rate of one update: linear from 0 over the warm-up, then constant or half a cosine down to ``min_lr``.

    Args:
        epoch: epochs that lie behind, in [0, epochs), with a fraction within one.
        epochs: of the whole run.
        lr: the peak.
        min_lr: where the cosine ends; None for a constant rate.
        warmup_epochs: length of the linear part.
    """
    if epoch < warmup_epochs:
        return lr * epoch / warmup_epochs
    if min_lr is None:
        return lr
    share = (epoch - warmup_epochs) / (epochs - warmup_epochs)
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * share)) / 2


def accelerate(settings: dict) -> Fabric:
    """Device and precision by the ``training`` section; ``auto`` takes the GPU where there is one.

    Automatic precision is bf16-mixed on GPUs that compute in it natively (capability 8.0), 16-mixed on older
    ones such as the V100, and 32-true on CPUs.

    Raises:
        ValueError: a GPU or a precision is asked for that is not there.
    """
    device, precision = settings.get("device", "auto"), settings.get("precision", "auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("training.device is cuda but this machine has no GPU that torch can use: set it to auto.")
    if precision == "auto" and device == "cpu":
        precision = "32-true"
    elif precision == "auto":
        precision = "bf16-mixed" if torch.cuda.get_device_capability() >= (8, 0) else "16-mixed"
    if precision == "16-mixed" and device == "cpu":
        raise ValueError("training.precision is 16-mixed, which needs a GPU: set it to auto.")
    # Left to guess, Fabric would find Slurm, check its task counts and perhaps refuse the job.
    return Fabric(accelerator=device, devices=1, precision=precision, plugins=[LightningEnvironment()])


def fingerprint(settings: dict, seed: int, sets: list[SampleSet], files: list[Path | None], detector: Detector) -> str:
    """Digest of all that decides what a run learns: only a checkpoint with the same one may be resumed.

    Of the images a sample of the training rows stands for all; ``files`` are the weights that the run begins with.
    """
    digest = hashlib.sha256(json.dumps([settings, seed], sort_keys=True).encode())
    for samples in sets:
        digest.update((samples.folder / "table.tsv").read_bytes())
        rows = samples.rows("train")
        images = samples.images[rows[:: len(rows) // FINGERPRINT_IMAGES + 1]]
        digest.update(np.ascontiguousarray(images).tobytes())
    for file in filter(None, files):
        digest.update(Path(file).read_bytes())
    for name, value in detector.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)}".encode())
    return digest.hexdigest()
