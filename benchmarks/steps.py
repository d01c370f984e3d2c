"""What the benchmarks of training share: steps of brainuad's own training on images in memory, and their losses."""

import copy
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from side_by_side import Row, alternate, figure, on_gpu, ratio
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from brainuad.condensing import condensed
from brainuad.devices import accelerate
from brainuad.gpus import automatic_device
from brainuad.models import Detector
from brainuad.sample_set import split_batches
from brainuad.training import Run

KINDS = {"32-true": torch.float32, "16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}  # that products are of
STILL = {"rotation": 0.0, "translation": 0.0, "scaling": 0.0, "flip": 0.0}


def batch_size(study: int, processor: int) -> int:
    """The study's on a GPU; on a processor, where a step of that takes seconds, a smaller one."""
    return study if on_gpu() else processor


class InMemory:
    """Images (n, 1, *size), float32, as training reads them from a sample set."""

    def __init__(self, images: np.ndarray):
        self.images, self.size = images, images.shape[2:]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """The images of these numbers."""
        return self.images[numbers]

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """All images once."""
        for numbers in split_batches(np.arange(len(self)), batch_size):
            yield self[numbers]


class Training:
    """brainuad's training of a model, in full precision unless another is asked for.

    Attributes:
        run: the training.
        x: the images, on its device, for the peer.
    """

    def __init__(
        self,
        detector: Detector,
        images: np.ndarray,
        lr: float,
        batch_size: int | None = None,
        moved: dict = STILL,
        precision: str = "32-true",
    ):
        """Set it up: all images are one batch unless ``batch_size`` says otherwise, and none is moved at random."""
        settings = {
            "training": {"device": "auto", "precision": precision, "augmentation": moved},
            "batch_size": batch_size or len(images),
            "epochs": 1000,
            "lr": lr,
        }
        fabric = accelerate(settings["training"])
        self.run = Run(detector, fabric, settings, 0, InMemory(images), InMemory(images))
        if detector.condenses and self.run.augment.still:
            run = self.run
            run.training = condensed(detector, run.training, run.batch_size, fabric, run.layout)
        self.x = fabric.to_device(torch.from_numpy(images))
        self.run.detector.train()

    def as_usual(self) -> "Training":
        """The same from here on, in the precision that a training takes by itself: 16 bit on most GPUs."""
        detector, settings = copy.deepcopy(self.run.detector), self.run.settings
        moved = settings["training"]["augmentation"]
        return Training(detector, self.x.cpu().numpy(), settings["lr"], settings["batch_size"], moved, "auto")

    def learn(self, updates: int, warmup: int = 0) -> Detector:
        """So many updates, by half a cosine after a warm-up if one is given; the model in eval mode."""
        if warmup:
            each = self.run.updates
            self.run.settings |= {"epochs": updates / each, "warmup_epochs": warmup / each, "min_lr": 0.0}
        for number in range(updates):
            epoch, index = divmod(number, self.run.updates)
            self.run.train_batch(epoch, index, self.run.batches(self.run.order(epoch))[index])
        return self.run.detector.eval()

    def step(self) -> None:
        """One update by all images, with what training does for it besides: reading them, seeding, the rate."""
        self.run.train_batch(0, 0, np.arange(len(self.x)))

    def seed(self) -> None:
        """Seed torch's global generator as ``step`` does."""
        self.run.seed_batch(0, 0)

    def losses(self, *names: str) -> tuple[float, ...]:
        """These terms of one update."""
        self.run.totals.clear()
        self.step()
        return tuple(float(self.run.totals[name]) / len(self.x) for name in names)


def noise(count: int, side: int) -> np.ndarray:
    """Blurred noise, (count, 1, side, side) in [0, 1]: what is in an image does not change what a step takes."""
    images = gaussian_filter(np.random.default_rng(0).random((count, 1, side, side)), (0, 0, 3, 3))
    return ((images - images.min()) / np.ptp(images)).astype(np.float32)


class Steps(NamedTuple):
    """What was found of steps in turns: seconds of each by round, the row of losses, and operations of one of ours."""

    seconds: list[list[float]]
    same: Row
    operations: int


def alternate_steps(
    training: Training,
    names: Sequence[str],
    peer: Callable[[], Sequence[float | Tensor]],
    *others: Callable[[], object],
    against: str,
    rounds: int,
    updates: int = 3,
) -> Steps:
    """Seconds of steps of ours, of the peer and of others, and how far apart the losses of the first ones lie.

    The first step of ours and of the peer is not timed: operations are counted in it.

    Args:
        training: ours, with the weights that the peer begins with, too.
        names: of its terms.
        peer: one update; returns the same terms.
        others: steps that are timed as well.
        against: the peer's name.
        rounds: how often each is timed.
        updates: how many are compared.
    """
    own, theirs = [], []

    def step() -> None:
        own.append(training.losses(*names))

    def peer_step() -> None:
        training.seed()
        theirs.append([float(loss) for loss in peer()])

    counted = operations(step)
    peer_step()
    seconds = alternate(step, peer_step, *others, rounds=rounds, warm=0)
    pairs = [(a, b) for kept in zip(own[:updates], theirs[:updates], strict=True) for a, b in zip(*kept, strict=True)]
    goal = f"... greatest difference of the losses of {len(own[:updates])} updates, as a share"
    same = Row(goal, against, 1e-5, max(abs(a - b) / abs(b) for a, b in pairs), unit="", at_least=False)
    return Steps(seconds, same, counted)


def use_of_machine(counted: int, ours: Training, peer: Callable[[], object], seconds: Sequence[float]) -> Iterator[Row]:
    """Rows without a goal: how near a step is to what the machine can do, and, on a GPU, its memory and 16 bit.

    Args:
        counted: operations of a step.
        ours: whose step it is.
        peer: the same by the peer.
        seconds: of ours, by round.
    """
    yield share_of_products(counted, seconds)
    if on_gpu():
        yield peak_memory("a step", ours.step, peer)
        yield from in_usual_precision(ours, counted)


def in_usual_precision(training: Training, counted: int) -> Iterator[Row]:
    """Rows of a step in the precision that a training would take: against 32 bit, and of that kind of products."""
    usual = training.as_usual()
    precision = usual.run.fabric.strategy.precision.precision
    full, short = alternate(training.step, usual.step)
    yield ratio(f"... in {precision}", "our own in 32 bit", None, full, short)
    yield share_of_products(counted, short, KINDS[precision])


def use_of_gpu(
    what: str, ours: Callable[[], object], peer: Callable[[], object], seconds: Sequence[float]
) -> Iterator[Row]:
    """Rows without a goal, on a GPU only: how near work of ours is to what it can do, and its memory.

    Args:
        what: is done by both.
        ours: does it.
        peer: does it, too.
        seconds: of ours, by round.
    """
    if on_gpu():
        yield share_of_products(operations(ours), seconds)
        yield peak_memory(what, ours, peer)


def share_of_products(counted: int, seconds: Sequence[float], kind: torch.dtype = torch.float32) -> Row:
    """The row of how near so many operations in so many seconds, by round, come to products of matrices of a kind."""
    billions, fastest = counted / 1e9, product_rate(kind=kind) / 1e9
    note = f"{figure(billions)} billion operations; those of products of matrices: {figure(fastest)} a second"
    share = 100 * billions / median(seconds) / fastest
    return Row("... of the rate of the machine's products of matrices", "", None, share, unit="%", note=note)


def peak_memory(what: str, ours: Callable[[], object], peer: Callable[[], object]) -> Row:
    """The row of the memory that both take on a GPU."""
    own, theirs = memory(ours), memory(peer)
    note = f"{figure(own / 2**20)} against {figure(theirs / 2**20)} MiB beside what lies there before"
    return Row(f"... memory of {what}, at its peak", "", None, theirs / own, note=note)


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations of a call, by torch's counter, which has no formula for attention on processors.

    Attention is counted as torch counts it on GPUs: causal or not, each input looks at all, with two products there and
    five back. Zeros that heads are filled up with are not counted.
    """
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    formulas = {
        kernel: lambda *shapes, scale=None, **_: sdpa_flop_count(*heads(shapes[:3], scale)),
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda *shapes, scale=None, **_: sdpa_backward_flop_count(*heads(shapes[:4], scale))
        ),
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        work()
    return counter.get_total_flops()


def heads(shapes: Sequence[Sequence[int]], scale: float | None) -> list[tuple[int, ...]]:
    """Shapes (b, heads, n, channels) without filled up channels: the scale tells of how many it is the root."""
    return [(*shape[:3], min(shape[3], round(scale**-2)) if scale else shape[3]) for shape in shapes]


def product_rate(side: int = 4096, kind: torch.dtype = torch.float32) -> float:
    """Floating-point operations a second of products of square matrices: the best of three."""
    matrix = torch.rand(side, side, device=automatic_device("auto"), dtype=kind)
    return 2 * side**3 / min(alternate(lambda: matrix @ matrix, rounds=3, warm=0)[0])


def memory(step: Callable[[], object]) -> int:
    """Bytes of the GPU that a step takes at its peak beside what lies there before."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return torch.cuda.max_memory_allocated() - before
