"""Floors: detectors that learn next to nothing, in the comparison by the same road as the models.

A model earns its training cost only above these. All leave the perceptual distance out of their maps: it
would measure the distance to an average or an empty image and say nothing about the floor. ``VoxelMean`` and
``VoxelZ`` learn one or two images; the others learn nothing and say what a blurred, a flat or an empty
"reconstruction" is worth, in SSIM too.
"""

from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from brainuad.models.detector import Detector
from brainuad.perceptual import gaussian_matrix

__all__ = ["AbsBlur", "EqualisedIntensity", "Flat", "Intensity", "VoxelMean", "VoxelZ"]


class _Blur(nn.Module):
    """Gaussian filter of each axis of (b, 1, *size), mirrored beyond the border and cut off at 4 sigma."""

    def __init__(self, size: Sequence[int], sigma: float):
        super().__init__()
        for axis, side in enumerate(size):
            self.register_buffer(f"axis{axis}", gaussian_matrix(side, sigma).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        for axis, matrix in enumerate(self.buffers(), start=2):
            x = (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
        return x.contiguous()


class _Residual(Detector):
    """What a floor that reconstructs something has in common: map = |x - reconstruction|."""

    def loss(self, x: Tensor) -> dict[str, Tensor]:
        """Mean absolute difference of image and reconstruction, for the learning curves only."""
        return {"loss": (x - self.reconstruct(x)).abs().mean()}

    def score(self, x: Tensor, reconstruction: Tensor, perceptual: Tensor) -> Tensor:
        """Plain residual |x - reconstruction|."""
        return (x - reconstruction).abs()


class VoxelMean(_Residual):
    """Distance to the mean healthy image: reconstruct = mean, map = |x - mean|."""

    tiny: ClassVar[dict] = {}

    def __init__(self, size: Sequence[int]):
        super().__init__(size)
        self.register_buffer("mean", torch.zeros(1, 1, *self.size))
        self.register_buffer("deviation", torch.zeros(1, 1, *self.size))

    def fit(self, images: Iterable[np.ndarray]) -> None:
        """Mean and standard deviation (divisor n) of each pixel over the images.

        One pass in float64, batches merged as Chan, Golub and LeVeque (1979) do, which is exact where the
        textbook's difference of squares cancels.
        """
        count, mean, squares = 0, np.zeros(self.size), np.zeros(self.size)
        for batch in images:
            values = np.asarray(batch[:, 0], dtype=np.float64)  # (b, *size)
            batch_mean, total = values.mean(axis=0), count + len(values)
            shift = batch_mean - mean
            squares += ((values - batch_mean) ** 2).sum(axis=0) + shift**2 * (count * len(values) / total)
            mean += shift * (len(values) / total)
            count = total
        if count == 0:
            raise ValueError(f"{type(self).__name__} has no training images: check the splits of training.datasets.")
        self.mean.copy_(torch.from_numpy(mean))
        self.deviation.copy_(torch.from_numpy(np.sqrt(squares / count)))

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean healthy image, whatever x is."""
        return self.mean.expand_as(x).clone()


class VoxelZ(VoxelMean):
    """Absolute z-score in the healthy population: map = |x - mean| / (deviation + floor)."""

    tiny: ClassVar[dict] = {}

    def __init__(self, size: Sequence[int], floor: float = 0.01, smoothing: float = 0.0):
        """Set the floor of the deviation, and the smoothing.

        Args:
            size: pixels along each axis.
            floor: added to the standard deviation, in image intensity, > 0. Outside the brain, and on its rim
                where few subjects reach, the deviation is 0 or nearly so, and a z-score without floor would
                be undefined or decided by rounding. 0.01 is one percent of the intensity range: below the
                noise of a T1 scan (two to four percent), so that it alters no z-score inside the brain by
                much.
            smoothing: sigma in pixels, >= 0, of a Gaussian on the map: an abnormal pixel has abnormal neighbours,
                and the maps of trained models are smoothed as well.
        """
        super().__init__(size)
        if smoothing < 0:
            raise ValueError(f"floors.VoxelZ needs a smoothing of 0 or more, not {smoothing}: correct its params.")
        self.smooth = _Blur(self.size, smoothing) if smoothing else nn.Identity()
        if floor <= 0:
            raise ValueError(f"floors.VoxelZ needs a floor above 0, not {floor}: correct its params.")
        self.floor = floor

    def score(self, x: Tensor, reconstruction: Tensor, perceptual: Tensor) -> Tensor:
        """Residual in standard deviations of the healthy population."""
        return self.smooth((x - reconstruction).abs() / (self.deviation + self.floor))


class Intensity(Detector):
    """The image itself: reconstruct = an empty image, so that the residual is the intensity; map = x."""

    tiny: ClassVar[dict] = {}

    def loss(self, x: Tensor) -> dict[str, Tensor]:
        """Mean intensity, for the learning curves only."""
        return {"loss": x.abs().mean()}

    def reconstruct(self, x: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros_like(x)

    def score(self, x: Tensor, reconstruction: Tensor, perceptual: Tensor) -> Tensor:
        """The intensity of each pixel."""
        return x.clone()


class EqualisedIntensity(Intensity):
    """Intensity after histogram equalisation, 1 being the brightest: reconstruct = an empty image, map = rank.

    Meissen et al., Challenging Current Semi-Supervised Anomaly Segmentation Methods for Brain MRI, BrainLes 2021:
    on FLAIR images, where lesions are bright, a threshold on it beats the deep models of its time.
    """

    tiny: ClassVar[dict] = {}

    def score(self, x: Tensor, reconstruction: Tensor, perceptual: Tensor) -> Tensor:
        """Share of the pixels of the image's own brain (x > 0) that are not brighter; 0 outside it."""
        return torch.stack([ranks(image) for image in x])


def ranks(image: Tensor) -> Tensor:
    """Of each pixel above 0, the share of such pixels that are at most as bright, in (0, 1]; of others 0."""
    brain = image > 0
    ordered = image[brain].sort().values
    found = torch.searchsorted(ordered, image.contiguous(), right=True) / max(len(ordered), 1)
    return torch.where(brain, found, 0.0)


class Flat(_Residual):
    """A brain of one intensity: reconstruct = the image's mean inside its brain (x > 0), map = |x - reconstruction|."""

    tiny: ClassVar[dict] = {}

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of the pixels above 0, wherever x is above 0."""
        brain = x > 0
        pixels = brain.flatten(1).sum(1).clamp(min=1)
        mean = (x * brain).flatten(1).sum(1) / pixels  # (b,)
        return brain * mean.view(-1, *[1] * (x.ndim - 1))


class AbsBlur(_Residual):
    """An image without its detail: reconstruct = Gaussian blur of x, map = |x - blur|.

    It copies every anomaly larger than the blur, as does a model that reconstructs too well, and yet has a high SSIM.
    """

    tiny: ClassVar[dict] = {}

    def __init__(self, size: Sequence[int], sigma: float = 2.0):
        """Set the blur.

        Args:
            size: pixels along each axis.
            sigma: standard deviation of the Gaussian in pixels, > 0; cut off at 4 sigma.
        """
        super().__init__(size)
        if sigma <= 0:
            raise ValueError(f"floors.AbsBlur needs a sigma above 0, not {sigma}: correct its params.")
        self.blur = _Blur(self.size, sigma)

    def reconstruct(self, x: Tensor) -> Tensor:
        """x blurred along every axis."""
        return self.blur(x)
