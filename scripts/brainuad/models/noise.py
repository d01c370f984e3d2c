"""Coarse noise, of which several models have need: random numbers on a grid, interpolated to the pixels.

Tensors are (count, 1, *size). Random numbers come from a generator of the device or, if it is None, from torch's own.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["coarse", "pyramid"]

LINEAR = {2: "bilinear", 3: "trilinear"}


def coarse(
    count: int,
    nodes: Sequence[int],
    size: Sequence[int],
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normal numbers at nodes, the outermost on the border, and linear between them.

    A node has variance 1, a place amid nodes less: (2 / 3) to the power of the axes on average.
    """
    numbers = torch.randn(count, 1, *nodes, generator=generator, device=device)
    return F.interpolate(numbers, tuple(size), mode=LINEAR[len(size)], align_corners=True)


def pyramid(
    count: int,
    size: Sequence[int],
    octaves: int,
    persistence: float,
    period: int,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Sum of coarse noise at several scales, with mean 0 and variance 1 over many draws; no simplex noise.

    Args:
        count: images.
        size: pixels along each axis.
        octaves: how many scales; each has half the period of the one before.
        persistence: amplitude of a scale, as a share of that of the one before.
        period: pixels between neighbouring nodes of the first scale.
        generator: of the random numbers; one of the CPU.
        device: where to draw; without a generator any.
    """
    total = torch.zeros(count, 1, *size, device=device)
    for octave in range(octaves):
        cell = max(1, period // 2**octave)
        # A random part of a field that is a cell larger, so that nodes are anywhere. All images share that part.
        nodes = [math.ceil((side + cell - 2) / cell) + 1 for side in size]
        field = coarse(count, nodes, [(number - 1) * cell + 1 for number in nodes], generator, device)
        for axis, side in enumerate(size, start=2):
            start = int(torch.randint(cell, (), generator=generator))
            field = field.narrow(axis, start, side)
        total += persistence**octave * field / mean_deviation(cell, len(size))
    return total / math.sqrt(sum(persistence ** (2 * octave) for octave in range(octaves)))


def mean_deviation(cell: int, axes: int) -> float:
    """Root of the mean variance of linear interpolation between independent nodes, ``cell`` pixels apart."""
    return ((2 * cell**2 + 1) / (3 * cell**2)) ** (axes / 2)
