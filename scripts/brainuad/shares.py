"""The share of a batch that this process holds, where several train one model together.

What a step draws for the images of a batch, or sums over them, must not depend on how they are shared. So each process
draws for the whole batch, from generators that are seeded alike, and keeps what falls to its own images; and sums go
over all processes. Anywhere else a batch is whole, and these functions leave things as they are.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.nn.functional import all_reduce

__all__ = ["Share", "held", "normal_like", "total", "whole_batch"]


@dataclass(frozen=True)
class Share:
    """A part of a batch.

    Attributes:
        whole: images of the batch.
        start: place in it of the first image of this process.
        stop: place behind its last one.
        copies: processes that hold this part, each of which counts for as much less.
    """

    whole: int
    start: int
    stop: int
    copies: int = 1

    @property
    def own(self) -> slice:
        """The images of this process."""
        return slice(self.start, self.stop)

    @property
    def weight(self) -> float:
        """What a mean over these images contributes to that over the batch; of all processes they sum to 1."""
        return (self.stop - self.start) / self.whole / self.copies

    def add(self, totals: dict[str, Tensor], means: dict[str, Tensor]) -> None:
        """Add means over these images to sums over many, on the device: reading them here would make a GPU wait."""
        for name, value in means.items():
            totals[name] = totals.get(name, 0) + value.detach().double() * (self.whole * self.weight)


current: Share | None = None  # like torch's generator, which the draws below come from: one for the process


@contextlib.contextmanager
def held(share: Share) -> Iterator[None]:
    """Within it, the images that a model gets are this share of a batch."""
    global current
    current = share
    try:
        yield
    finally:
        current = None


def whole_batch(count: int) -> tuple[int, slice]:
    """For how many images to draw, and which of these are the images at hand.

    Args:
        count: images at hand.

    Raises:
        ValueError: they are not those of the share that this process holds.
    """
    if current is None:
        return count, slice(0, count)
    if count != current.stop - current.start:
        raise ValueError(f"A draw for {count} images, but this process holds {current.stop - current.start}.")
    return current.whole, current.own


def normal_like(x: Tensor) -> Tensor:
    """Standard normal numbers of the shape of x (b, ...)."""
    whole, own = whole_batch(len(x))
    return torch.randn(whole, *x.shape[1:], dtype=x.dtype, device=x.device)[own]


def total(x: Tensor) -> Tensor:
    """The sum over all shares of a batch of what was summed over this one; gradients go to all."""
    if current is None or current.copies > 1 or current.stop - current.start == current.whole:
        return x
    return all_reduce(x)
