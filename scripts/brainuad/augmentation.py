"""Augmentation: images moved and flipped at random.

It is that of RA (Bercea et al., MIDL 2023): rotation, translation, scaling, flip, with zeros
from outside the frame, here of a whole batch at once on the device that holds it. The random numbers are
drawn on the CPU, so that a seed means the same images on every device.
"""

import math
from functools import reduce
from itertools import repeat

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

__all__ = ["RandomAffine", "warp"]

PLANES = {2: ((0, 1),), 3: ((0, 1), (0, 2), (1, 2))}


class RandomAffine:
    """Draws one affine map and one flip for each image of a batch."""

    def __init__(
        self,
        rotation: float = 10.0,
        translation: float = 0.1,
        scaling: float = 0.1,
        flip: float = 0.5,
        probability: float = 1.0,
    ) -> None:
        """Set the ranges; all draws are uniform.

        Args:
            rotation: largest angle in degrees, in the image plane (2-D) or in each of the three planes (3-D).
            translation: largest shift along each axis, as a fraction of that side.
            scaling: largest deviation of the scale factor from 1, the same along all axes.
            flip: probability of a flip along axis 0, left to right.
            probability: that an image is rotated, shifted and scaled at all; flips do not depend on it.
        """
        self.rotation, self.translation, self.scaling, self.flip = rotation, translation, scaling, flip
        self.probability = probability

    @property
    def still(self) -> bool:
        """Whether images always stay as they are."""
        return self.flip == 0 and (self.probability == 0 or self.rotation == self.translation == self.scaling == 0)

    def __call__(self, x: Tensor, generator: Generator, whole: int | None = None, start: int = 0) -> Tensor:
        """Transformed copies of x (b, 1, *size); values stay within the range of x and 0.

        Without rotation, translation and scaling nothing is interpolated: flips are then exact.

        Args:
            x: images, all of a batch or a part of it.
            generator: of the random numbers.
            whole: images of the batch that x is a part of: each of them has its map drawn, so that an image meets
                the same map whoever holds which part.
            start: place of x in that batch.
        """
        part = slice(start, start + len(x))
        flipped = torch.rand(whole or len(x), generator=generator) < self.flip
        if self.rotation == self.translation == self.scaling == 0:
            mask = flipped[part].to(x.device).view(-1, *[1] * (x.ndim - 1))
            return torch.where(mask, x.flip(2), x)
        matrix, shift = self.draw(x.shape[2:], flipped, generator)
        return warp(x, matrix[part], shift[part])

    def draw(self, size: torch.Size, flipped: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Random maps of ``len(flipped)`` images of one size, as ``warp`` takes them."""
        count, axes = len(flipped), len(size)
        angles = self.uniform((count, len(PLANES[axes])), generator) * math.radians(self.rotation)
        scales = 1 + self.uniform((count, 1, 1), generator) * self.scaling
        shifts = self.uniform((count, axes), generator) * self.translation * torch.tensor(size)
        if self.probability < 1:
            moved = (torch.rand(count, generator=generator) < self.probability).float()
            angles, scales, shifts = (
                angles * moved[:, None],
                1 + (scales - 1) * moved[:, None, None],
                shifts * moved[:, None],
            )
        rotations = map(rotation_in_plane, PLANES[axes], angles.unbind(1), repeat(axes))
        matrix = reduce(lambda before, after: after @ before, rotations)
        matrix[:, :, 0] *= torch.where(flipped, -1.0, 1.0)[:, None]  # the flip comes first
        return matrix * scales, shifts

    def uniform(self, shape: tuple[int, ...], generator: Generator) -> Tensor:
        """Numbers from [-1, 1)."""
        return 2 * torch.rand(shape, generator=generator) - 1


def rotation_in_plane(plane: tuple[int, int], angle: Tensor, axes: int) -> Tensor:
    """Rotations (b, axes, axes) of the first axis of a plane towards the second; angles (b,) in radians."""
    first, second = plane
    zero, one, cosine, sine = torch.zeros_like(angle), torch.ones_like(angle), angle.cos(), angle.sin()
    entries = [[one if row == column else zero for column in range(axes)] for row in range(axes)]
    entries[first][first] = entries[second][second] = cosine
    entries[first][second], entries[second][first] = -sine, sine
    return torch.stack([entry for row in entries for entry in row], 1).view(-1, axes, axes)


def warp(x: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Move images by affine maps about their centre, with linear interpolation and zeros from outside.

    What lies at p of the input comes to ``matrix @ p + shift`` of the output, p in pixels from the centre of
    the image, which is at (side - 1) / 2 along each axis, in the axis order of ``size``.

    Args:
        x: images (b, 1, *size).
        matrix: (b, axes, axes), invertible; cheapest on the CPU, wherever x is.
        shift: (b, axes), pixels, on the same device as the matrix.

    Returns:
        (b, 1, *size)
    """
    sides = torch.tensor(x.shape[2:], dtype=matrix.dtype, device=matrix.device)
    inverse = torch.linalg.inv(matrix)  # output -> input
    offset = -(inverse @ shift[:, :, None])  # (b, axes, 1), pixels
    # grid_sample measures in half sides (align_corners=False) and lists the axes backwards.
    inverse = inverse * sides[None, None, :] / sides[None, :, None]
    offset = offset * 2 / sides[None, :, None]
    grid = affine_grid(inverse.flip(1).to(x), offset.flip(1).to(x), x.shape[2:])
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def affine_grid(matrix: Tensor, offset: Tensor, size: torch.Size) -> Tensor:
    """Where each pixel of the output looks, as torch's function of this name says it, in a fraction of its time.

    An affine map is a sum of one part for each axis, of which only the last addition is as large as the image.

    Args:
        matrix: (b, axes, axes), rows in the order of ``grid_sample`` (last axis first), columns in that of ``size``.
        offset: (b, axes, 1).
        size: pixels along each axis.

    Returns:
        (b, *size, axes)
    """
    axes = len(size)
    grid = offset.view(-1, *[1] * axes, axes)
    for axis, side in enumerate(size):
        positions = (2 * torch.arange(side, dtype=matrix.dtype, device=matrix.device) + 1) / side - 1
        part = positions[:, None] * matrix[:, None, :, axis]  # (b, side, axes)
        grid = plus(grid, part.view(len(matrix), *[1] * axis, side, *[1] * (axes - 1 - axis), axes))
    return grid


def plus(a: Tensor, b: Tensor) -> Tensor:
    """The sum of points (..., axes); pairs are added as complex numbers, on CPUs in an eighth of the time."""
    if a.shape[-1] == 2 and a.dtype in (torch.float32, torch.float64):
        return torch.view_as_real(torch.view_as_complex(a.contiguous()) + torch.view_as_complex(b.contiguous()))
    return a + b
