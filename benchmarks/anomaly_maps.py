"""Anomaly maps, residual × smoothed LPIPS and RA's own: a batch at a time, against image after image as RA does it."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter
from side_by_side import ROOT, Row, alternate, finish, main, ratio
from skimage.exposure import equalize_adapthist
from torchvision.models import squeezenet1_1

from brainuad.models import Detector
from brainuad.perceptual import PerceptualDistance, spatial_lpips
from brainuad.scoring import components

IMAGES, SIDE, ROUNDS, SMOOTHING = 64, 128, 5, 2.0
ALEXNET = ROOT / "resources/lpips/alexnet_features.safetensors"
PEER = "`lpips` package and SciPy, image by image"
EQUALISING = "`lpips` package, scikit-image and SciPy, image by image"


class Given(Detector):
    """A model whose reconstruction is given, so that what is measured is what is made of it."""

    def __init__(self, reconstruction: torch.Tensor):
        super().__init__(reconstruction.shape[2:])
        self.reconstruction = reconstruction

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        """What was given."""
        return self.reconstruction


def images(count: int, side: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Blurred noise and what a model might make of it, (count, 1, side, side) in [0, 1]."""
    random = np.random.default_rng(0)
    pair = (gaussian_filter(random.random((count, 1, side, side)), (0, 0, 3, 3)) for _ in range(2))
    first, second = (torch.from_numpy((array - array.min()) / np.ptp(array)).float() for array in pair)
    return first.to(device), (0.8 * first + 0.2 * second).to(device)


def squeezenet(folder: Path) -> Path:
    """A trunk of random weights: those that RA takes are not shipped, and what they are changes no time."""
    torch.manual_seed(0)
    weights = squeezenet1_1(weights=None).features.state_dict()
    save_file({f"features.{name}": tensor for name, tensor in weights.items()}, folder / "squeeze.safetensors")
    return folder / "squeeze.safetensors"


def one_by_one(lpips: torch.nn.Module, equalising: bool) -> Callable[[torch.Tensor, torch.Tensor], np.ndarray]:
    """The map of one image as in RA's code: with equalised images and both distances, or of the images alone."""

    def distance(image: torch.Tensor, other: torch.Tensor) -> np.ndarray:
        return gaussian_filter(lpips(image * 2 - 1, other * 2 - 1)[0, 0].cpu().numpy(), SMOOTHING)

    def product(image: torch.Tensor, other: torch.Tensor) -> np.ndarray:
        return (image - other).abs()[0, 0].cpu().numpy() * distance(image, other)

    def equalised(image: torch.Tensor, other: torch.Tensor) -> np.ndarray:
        arrays = (equalize_adapthist(tensor[0, 0].cpu().numpy()) for tensor in (image, other))
        pair = [torch.from_numpy(array)[None, None].to(image) for array in arrays]
        return product(*pair) * distance(image, other)

    return equalised if equalising else product


def compared(trunk: Path, name: str, kind: str, wanted: float, count: int, side: int, rounds: int) -> Iterator[Row]:
    """The ratio and the greatest difference of one kind of map by one trunk."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    distance, results = PerceptualDistance(trunk, SMOOTHING, name).to(device), {}
    single = one_by_one(spatial_lpips(trunk, name).to(device), kind == "equalised")
    x, y = images(count, side, device)
    model = Given(y)

    def ours() -> None:
        results["ours"] = components(model, distance, x, kind)["map"].cpu().numpy()

    @torch.no_grad()
    def theirs() -> None:
        maps = [single(image, other) for image, other in zip(x.split(1), y.split(1), strict=True)]
        results["theirs"] = np.stack(maps)[:, None]

    peer, own = alternate(theirs, ours, rounds=rounds)
    what = "RA's own" if kind == "equalised" else "residual × LPIPS"
    against = EQUALISING if kind == "equalised" else PEER
    title = {"alex": "AlexNet", "squeeze": "SqueezeNet of random weights"}[name]
    yield ratio(f"Anomaly maps of {count} images of {side} × {side}, {what}, {title}", against, wanted, peer, own)
    error = float(np.abs(results["ours"] - results["theirs"]).max())
    yield Row("... greatest difference", against, 1e-6, error, unit="", at_least=False)
    finish()


def measure(count: int = IMAGES, side: int = SIDE, rounds: int = ROUNDS) -> Iterator[Row]:
    """Both kinds by RA's trunk, and the usual one by the trunk that is shipped."""
    with tempfile.TemporaryDirectory() as folder:
        trunk = squeezenet(Path(folder))
        yield from compared(trunk, "squeeze", "product", 2.8, count, side, rounds)
        yield from compared(trunk, "squeeze", "equalised", 2.5, count, side, rounds)
        yield from compared(ALEXNET, "alex", "product", 2.8, count, side, rounds)


if __name__ == "__main__":
    main(measure)
