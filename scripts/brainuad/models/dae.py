"""Denoising autoencoder (DAE): a U-Net that removes coarse noise, and at test time whatever else is not anatomy.

Kascenas, Pugeault and O'Neil, Denoising Autoencoders for Unsupervised Anomaly Detection in Brain MRI, MIDL 2022,
written from the published facts. Noise of standard deviation 0.2 is drawn on a grid of 16 x 16 for 128 x 128 pixels,
one number for 8 pixels, interpolated bilinearly, rolled by a random distance along each axis and added to the
foreground: blobs of a size and strength that lesions have. The network has skips, so that healthy detail passes
unharmed; squared error against the clean image; at test time nothing is added.

Convolutions have standardised weights (Qiao et al., Micro-Batch Training with Batch-Channel Normalization and Weight
Standardization, 2019) and a reflected border; Swish and then group normalisation follow each.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from brainuad.models.detector import Detector
from brainuad.models.noise import coarse
from brainuad.shares import whole_batch

__all__ = ["DenoisingAE"]

DARK = 0.01  # the foreground is what is brighter
EPSILON = 1e-5  # added to the deviation of a filter's weights
WINDOW = 5  # pixels along each axis of the published score's erosion and median


class StandardisedConv(nn.Module):
    """Convolution of kernel 3 with a reflected border, each of whose filters has mean 0 and deviation 1."""

    def __init__(self, dims: int, inputs: int, outputs: int):
        super().__init__()
        self.convolution = getattr(nn, f"Conv{dims}d")(inputs, outputs, 3)
        self.convolve = getattr(F, f"conv{dims}d")
        self.border = (1, 1) * dims

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, *s) to (b, outputs, *s)."""
        weight = self.convolution.weight
        axes = tuple(range(1, weight.ndim))
        weight = weight - weight.mean(axes, keepdim=True)
        weight = weight / (weight.std(axes, keepdim=True) + EPSILON)
        return self.convolve(F.pad(x, self.border, mode="reflect"), weight, self.convolution.bias)


def block(dims: int, inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions, each with Swish and a norm."""
    layers = []
    for before in (inputs, outputs):
        layers += [StandardisedConv(dims, before, outputs), nn.SiLU(), nn.GroupNorm(groups(outputs), outputs)]
    return nn.Sequential(*layers)


def groups(channels: int) -> int:
    """How many groups a norm has: the middle divisor, about the root of the channels."""
    divisors = [number for number in range(1, channels + 1) if channels % number == 0]
    return divisors[len(divisors) // 2]


class DenoisingAE(Detector):
    """The denoising autoencoder: 7,701,825 parameters."""

    tiny: ClassVar[dict] = {"channels": (8, 16)}

    def __init__(
        self,
        size: Sequence[int],
        channels: Sequence[int] = (64, 128, 256, 512),
        noise_deviation: float = 0.2,
        noise_cell: int = 8,
        weight_decay: float = 1e-5,
        published_score: bool = False,
    ):
        """Build the U-Net.

        Args:
            size: pixels along each axis, multiples of 2 to the number of levels but one.
            channels: of each level; each but the last halves the sides by a mean.
            noise_deviation: standard deviation of the noise at the nodes of its grid, in image intensity. Between
                them it is less: two thirds of it on average in 2-D.
            noise_cell: pixels along each axis for one number of the noise.
            weight_decay: of Adam.
            published_score: map = absolute residual within the eroded foreground, filtered by a median of 5 pixels
                along each axis, in place of the map of all models.

        Raises:
            ValueError: a side cannot be halved that often, or a parameter has no meaning.
        """
        super().__init__(size)
        check(self.size, channels, noise_deviation, noise_cell)
        self.noise_deviation, self.weight_decay = noise_deviation, weight_decay
        self.nodes = tuple(max(1, side // noise_cell) for side in self.size)
        self.published_score = published_score
        dims = len(self.size)
        convolution, transposed = getattr(nn, f"Conv{dims}d"), getattr(nn, f"ConvTranspose{dims}d")
        self.pool = getattr(nn, f"AvgPool{dims}d")(2)
        self.down = nn.ModuleList([block(dims, *pair) for pair in pairwise((1, *channels))])
        upwards = list(pairwise(channels[::-1]))
        self.enlarge = nn.ModuleList([transposed(inputs, outputs, 2, stride=2) for inputs, outputs in upwards])
        self.up = nn.ModuleList([block(dims, 2 * outputs, outputs) for _, outputs in upwards])
        self.output = convolution(channels[0], 1, 1)

    def loss(self, x: Tensor) -> dict[str, Tensor]:
        """Squared error of the denoised image in the foreground; each image has its own noise, in eval mode too."""
        error = (self.denoise(x + self.noise(x)) - x).square()
        return {"loss": (error * foreground(x)).mean()}

    def reconstruct(self, x: Tensor) -> Tensor:
        """x denoised, though no noise was added; unbounded. The background, which no loss is about, is left at 0."""
        return self.denoise(x) * foreground(x)

    def score(self, x: Tensor, reconstruction: Tensor, perceptual: Tensor) -> Tensor:
        """The map of all models or, with ``published_score``, that of the paper."""
        if not self.published_score:
            return super().score(x, reconstruction, perceptual)
        return median((x - reconstruction).abs() * eroded(foreground(x)))

    def optimizers(self, lr: float) -> list[Optimizer]:
        """Adam in the variant AMSGrad."""
        return [Adam(self.parameters(), lr, amsgrad=True, weight_decay=self.weight_decay, fused=True)]

    def noise(self, x: Tensor) -> Tensor:
        """Coarse noise (b, 1, *size), 0 outside the foreground; all images of a batch are rolled alike."""
        whole, own = whole_batch(len(x))
        numbers = self.noise_deviation * coarse(whole, self.nodes, self.size, device=x.device)[own]
        shifts = [int(torch.randint(side, ())) for side in self.size]
        return numbers.roll(shifts, tuple(range(2, x.ndim))) * foreground(x)

    def denoise(self, x: Tensor) -> Tensor:
        """Images (b, 1, *size) through the U-Net."""
        skips = []
        for i, down in enumerate(self.down):
            x = down(self.pool(x) if i else x)  # (b, channels[i], *size / 2**i)
            skips.append(x)
        skips.pop()
        for enlarge, up in zip(self.enlarge, self.up, strict=True):
            x = up(torch.cat([enlarge(x), skips.pop()], dim=1))
        return self.output(x)


def foreground(x: Tensor) -> Tensor:
    """Where there is tissue, 0 or 1."""
    return (x > DARK).to(x)


def eroded(mask: Tensor) -> Tensor:
    """Where 95 % of the window are in the mask, 0 or 1; pixels beyond the border are not."""
    pool = F.avg_pool2d if mask.ndim == 4 else F.avg_pool3d
    return (pool(mask, WINDOW, stride=1, padding=WINDOW // 2) > 0.95).to(mask)


def median(image: Tensor) -> Tensor:
    """Median of the window about each pixel, the border reflected."""
    windows = F.pad(image, (WINDOW // 2,) * (2 * (image.ndim - 2)), mode="reflect")
    for axis in range(2, image.ndim):
        windows = windows.unfold(axis, WINDOW, 1)  # (b, 1, *size, window, ...)
    return windows.flatten(image.ndim).median(-1).values


def check(size: Sequence[int], channels: Sequence[int], noise_deviation: float, noise_cell: int) -> None:
    """Refuse what cannot be built."""
    if len(channels) == 0 or noise_deviation <= 0 or noise_cell < 1:
        raise ValueError(
            "A denoising autoencoder needs one level or more in channels, a noise_deviation above 0 and a noise_cell "
            "of 1 or more: correct its params."
        )
    factor = 2 ** (len(channels) - 1)
    if any(side % factor or side // factor < 2 for side in size):
        raise ValueError(
            f"A denoising autoencoder of {len(channels)} levels needs images with sides divisible by {factor} and of "
            f"{2 * factor} or more, not {tuple(size)}: change samples.size or the model's channels."
        )
