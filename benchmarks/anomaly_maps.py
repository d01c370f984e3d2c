"""Anomaly maps, residual × smoothed LPIPS: a batch at a time, against one image after another as in the RA's code."""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from side_by_side import ROOT, Row, alternate, finish, main, ratio

from brainuad.perceptual import PerceptualDistance, spatial_lpips

IMAGES, SIDE, SMOOTHING = 64, 128, 2.0
TRUNK = ROOT / "resources/lpips/alexnet_features.safetensors"
PEER = "`lpips` package and SciPy, image by image"


def images(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Blurred noise and what a model might make of it, (images, 1, side, side) in [0, 1]."""
    random = np.random.default_rng(0)
    pair = (gaussian_filter(random.random((IMAGES, 1, SIDE, SIDE)), (0, 0, 3, 3)) for _ in range(2))
    first, second = (torch.from_numpy((array - array.min()) / np.ptp(array)).float() for array in pair)
    return first.to(device), (0.8 * first + 0.2 * second).to(device)


def measure() -> Iterator[Row]:
    """The ratio and the greatest difference."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    distance = PerceptualDistance(TRUNK, SMOOTHING).to(device)
    lpips, results = spatial_lpips(TRUNK).to(device), {}
    x, y = images(device)

    @torch.inference_mode()
    def ours() -> None:
        results["ours"] = ((x - y).abs() * distance(x, y)).cpu().numpy()

    @torch.no_grad()
    def theirs() -> None:
        maps = []
        for image, other in zip(x.split(1), y.split(1), strict=True):
            perceptual = lpips(image * 2 - 1, other * 2 - 1)[0, 0].cpu().numpy()
            maps.append((image - other).abs()[0, 0].cpu().numpy() * gaussian_filter(perceptual, SMOOTHING))
        results["theirs"] = np.stack(maps)[:, None]

    peer, own = alternate(theirs, ours)
    yield ratio(f"Anomaly maps of {IMAGES} images of {SIDE} × {SIDE}", PEER, 2.8, peer, own)
    error = float(np.abs(results["ours"] - results["theirs"]).max())
    yield Row("... greatest difference", PEER, 1e-6, error, unit="", at_least=False)
    finish()


if __name__ == "__main__":
    main(measure)
