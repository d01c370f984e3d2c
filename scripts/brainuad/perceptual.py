"""Perceptual distance maps: where a reconstruction looks different, not only where it is of other intensity.

LPIPS v0.1, by default with an AlexNet trunk (Zhang et al., "The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric", CVPR 2018) as one value a pixel, smoothed by a Gaussian as in the reversed autoencoder
(Bercea et al., MIDL 2023). The linear heads come with the ``lpips`` package, the trunk from a file: nothing
is downloaded. With AlexNet the few lines of the distance are written here, since importing the package takes a job
longer than scoring a small dataset; with other trunks the package computes it, to which ours is equal.
"""

import hashlib
import importlib.util
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["TRUNK_SHA256", "PerceptualDistance", "as_images", "as_slices", "gaussian_matrix"]

TRUNK_SHA256 = "9f97fd313f4da83dbe6bbfbe6effca1241de9edfcd7c53386261ed9697286dd9"
SMALLEST_SIDE = 31  # of a slice: the trunk halves it down to one pixel
CHUNK = {"cpu": 16, "cuda": 128}  # slices at once; on CPUs more fall out of the cache


class PerceptualDistance(nn.Module):
    """Smoothed LPIPS distance of images, one value a pixel; 0 where both are the same.

    Args:
        trunk: safetensors file with the convolutions of torchvision's network.
        smoothing: standard deviation of the Gaussian in pixels, the same along each axis; 0 smooths nothing.
        network: ``alex``, ``squeeze`` or ``vgg``.

    Raises:
        ValueError: ``trunk`` is another file than the one that LPIPS was calibrated with.
    """

    def __init__(self, trunk: Path | str | None, smoothing: float, network: str = "alex"):
        super().__init__()
        if trunk is None:
            raise ValueError("A perceptual distance is to be measured and needs the weights of its trunk.")
        self.smoothing = float(smoothing)
        distance = AlexNetLPIPS(Path(trunk)) if network == "alex" else spatial_lpips(Path(trunk), network)
        self.distance = distance.to(memory_format=torch.channels_last)  # faster on CPUs

    def mean(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean distance of two batches (b, 1, *size), a scalar with gradients: neither smoothed nor clamped.

        Computed in full precision also under autocast: LPIPS divides by norms that half precision rounds to zero.
        """
        with torch.autocast(x.device.type, enabled=False):
            x, y = (as_slices(image.float()) * 2 - 1 for image in (x, y))
            return self.distance(x, y).mean()

    @torch.no_grad()
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance between two batches.

        Args:
            x: (b, 1, *size) of two or three dimensions; values outside [0, 1] are clamped.
            y: of the same shape. Volumes are compared one axial slice (last axis) at a time, then smoothed
                along all three axes.

        Returns:
            (b, 1, *size), 0 or greater, unbounded in principle and below about 1 in practice.

        Raises:
            ValueError: slices are smaller than 31 pixels.
        """
        if min(x.shape[2:4]) < SMALLEST_SIDE:
            raise ValueError(
                f"Slices of {x.shape[2]} x {x.shape[3]} pixels are too small for the perceptual distance: "
                f"set `samples.size` to {SMALLEST_SIDE} or more along the first two axes."
            )
        count = CHUNK.get(x.device.type, 16)
        slices = zip(*(as_slices(image.float().clamp(0, 1)).split(count) for image in (x, y)), strict=True)
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):  # no rounding to TF32
            distance = torch.cat([self.distance(a * 2 - 1, b * 2 - 1) for a, b in slices])
        return self.smooth(as_images(distance, x.shape))

    def smooth(self, image: Tensor) -> Tensor:
        """Gaussian filter of each spatial axis of (b, 1, *size), equal to scipy's ``gaussian_filter``."""
        for axis in range(2, image.ndim) if self.smoothing > 0 else ():
            matrix = gaussian_matrix(image.shape[axis], self.smoothing).to(image)
            image = (image.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
        return image.contiguous()


class AlexNetLPIPS(nn.Module):
    """LPIPS v0.1 with an AlexNet trunk, one value a pixel, frozen; equal to the package's with ``spatial=True``.

    Args:
        trunk: safetensors file with the five convolutions of torchvision's AlexNet.

    Raises:
        ValueError: ``trunk`` is another file.
    """

    def __init__(self, trunk: Path):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.layers = nn.ModuleList(
                (
                    nn.Conv2d(3, 64, 11, stride=4, padding=2),
                    nn.Conv2d(64, 192, 5, padding=2),
                    nn.Conv2d(192, 384, 3, padding=1),
                    nn.Conv2d(384, 256, 3, padding=1),
                    nn.Conv2d(256, 256, 3, padding=1),
                )
            )
        weights = alexnet_weights(trunk)
        for layer, index in zip(self.layers, (0, 3, 6, 8, 10), strict=True):
            layer.load_state_dict({name: weights[f"features.{index}.{name}"] for name in ("weight", "bias")})
        package = Path(importlib.util.find_spec("lpips").origin).parent
        heads = torch.load(package / "weights/v0.1/alex.pth", map_location="cpu", weights_only=True)
        for index in range(len(self.layers)):
            self.register_buffer(f"head{index}", heads[f"lin{index}.model.1.weight"])
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        weight = self.layers[0].weight.detach().double() / scale[:, None, None]
        self.register_buffer("grey", weight.sum(1, keepdim=True).float())
        self.register_buffer("grey_shift", (weight * shift[:, None, None]).sum(1, keepdim=True).float())
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance (b, 1, h, w) of images (b, 1, h, w) with values in [-1, 1]."""
        total, features = 0, (x, y)
        for index, layer in enumerate((self.first_layer, *self.layers[1:])):
            if index in (1, 2):
                features = [F.max_pool2d(feature, 3, stride=2) for feature in features]
            features = [F.relu_(layer(feature)) for feature in features]  # in place: what a layer gives is new
            a, b = (feature / (torch.linalg.vector_norm(feature, dim=1, keepdim=True) + 1e-10) for feature in features)
            difference = F.conv2d((a - b).square(), getattr(self, f"head{index}"))
            total = total + F.interpolate(difference, x.shape[2:], mode="bilinear", align_corners=False)
        return total

    def first_layer(self, image: Tensor) -> Tensor:
        """The first convolution of three equal channels, each shifted and scaled, from one: a third of the work.

        The sum over channels goes into the weights. What the shifts add is the same for all images, though not for
        all pixels: those near the border see zeros, which are not shifted.
        """
        added = F.conv2d(torch.ones_like(image[:1]), -self.grey_shift, self.layers[0].bias, stride=4, padding=2)
        return F.conv2d(image, self.grey, stride=4, padding=2).add_(added)


def as_slices(image: Tensor) -> Tensor:
    """Axial slices: (b, 1, x, y) as it is, (b, 1, x, y, z) → (b z, 1, x, y)."""
    return image if image.ndim == 4 else image.permute(0, 4, 1, 2, 3).flatten(0, 1)


def as_images(slices: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of :func:`as_slices`, to (b, 1, *size)."""
    if len(shape) == 4:
        return slices
    return slices.unflatten(0, (shape[0], shape[4])).permute(0, 2, 3, 4, 1)


def spatial_lpips(trunk: Path, name: str = "alex") -> nn.Module:
    """LPIPS of the ``lpips`` package with spatial output, frozen, its trunk of that name read from ``trunk``."""
    import lpips

    weights = alexnet_weights(trunk) if name == "alex" else fetched_weights(trunk, name)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # lpips calls torchvision by deprecated names
        network = lpips.LPIPS(net=name, version="0.1", spatial=True, pnet_rand=True, verbose=False)
    for name, tensor in network.net.named_parameters():  # slice2.3.weight ← features.3.weight
        tensor.data.copy_(weights[f"features.{name.split('.', 1)[1]}"])
    return network.eval().requires_grad_(False)


def fetched_weights(trunk: Path, name: str) -> dict[str, Tensor]:
    """Read a trunk that the rule ``trunk`` fetched, which compared its checksum."""
    count = {"squeeze": 50, "vgg": 26}[name]
    weights = load_file(trunk) if trunk.is_file() else {}
    if len(weights) != count:
        raise ValueError(
            f"{trunk} does not hold the {count} tensors of the trunk {name!r}: delete it and run `snakemake {trunk}` "
            "where there is internet."
        )
    return weights


def alexnet_weights(trunk: Path) -> dict[str, Tensor]:
    """Read the trunk that is shipped after comparing its checksum."""
    if not trunk.is_file():
        raise ValueError(
            f"{trunk} does not exist: restore resources/lpips/alexnet_features.safetensors from the repository."
        )
    if hashlib.sha256(trunk.read_bytes()).hexdigest() != TRUNK_SHA256:
        raise ValueError(
            f"{trunk} is not the AlexNet trunk that LPIPS was calibrated with "
            f"(its sha256 is not {TRUNK_SHA256}): restore resources/lpips/alexnet_features.safetensors."
        )
    return load_file(trunk)


def gaussian_matrix(length: int, sigma: float) -> Tensor:
    """The Gaussian filter of an axis as a matrix (length, length), float64.

    Truncated at 4 sigma; pixels beyond the border are mirrored about its edge (d c b a | a b c d | d c b a),
    as by default in ``scipy.ndimage.gaussian_filter``. A product with it is exact for any length and fast on
    any device.
    """
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    position = (np.arange(length)[:, None] + offsets) % (2 * length)
    mirrored = np.minimum(position, 2 * length - 1 - position)
    matrix = np.zeros((length, length))
    np.add.at(matrix, (np.arange(length)[:, None], mirrored), kernel / kernel.sum())
    return torch.from_numpy(matrix)
