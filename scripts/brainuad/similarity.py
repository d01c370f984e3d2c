"""How alike a reconstruction and its image are, in the frame and in the brain, one number an image.

Images hold values in [0, 1]; reconstructions are clamped to it. Background makes an empty image look alike: hence the
brain.
"""

import numpy as np
from scipy.ndimage import correlate1d
from skimage.metrics import structural_similarity

__all__ = ["mean_absolute_error", "ms_ssim", "psnr", "ssim", "ssim_map"]

WINDOW = 7
GAUSSIAN_WINDOW, SIGMA = 11, 1.5
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli, Bovik (2003)
C1, C2 = 0.01**2, 0.03**2


def ssim(image: np.ndarray, reconstruction: np.ndarray, region: np.ndarray) -> float:
    """Mean local SSIM over the pixels of a region, without the border of 3 pixels; NaN without pixels."""
    inside = inner(region)
    return float(ssim_map(image, reconstruction)[inside].mean()) if inside.any() else np.nan


def ssim_map(image: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """Local SSIM of two images of any dimension, clamped to [0, 1], without the border of 3 pixels.

    Its mean is scikit-image's ``structural_similarity``.

    Raises:
        ValueError: images are smaller than the window of 7 pixels.
    """
    x, y = clamped(image, reconstruction)
    if min(x.shape) < WINDOW:
        raise ValueError(f"Images of shape {x.shape} are too small for SSIM: set `samples.size` to {WINDOW} or more.")
    return inner(structural_similarity(x, y, win_size=WINDOW, data_range=1, full=True)[1])


def ms_ssim(image: np.ndarray, reconstruction: np.ndarray, region: np.ndarray) -> float:
    """Multi-scale SSIM of a region, 0 to 1; equal to MONAI's ``MultiScaleSSIMMetric`` where the region is the frame.

    Gaussian windows of 11 pixels (sigma 1.5) on the image halved again and again: contrast at each scale, luminance at
    the last, each to the power of its weight. Five scales need 176 pixels; of smaller images those that fit are taken
    and their weights scaled to sum 1. A window belongs to the region if its middle does. NaN if a scale has no such
    window.
    """
    x, y = clamped(image, reconstruction)
    inside = np.asarray(region, dtype=np.float64)
    scales = next(n for n in range(len(SCALE_WEIGHTS), 0, -1) if min(x.shape) >> (n - 1) >= GAUSSIAN_WINDOW or n == 1)
    weights = np.array(SCALE_WEIGHTS[:scales]) / sum(SCALE_WEIGHTS[:scales])
    product = 1.0
    for scale, weight in enumerate(weights):
        structure, luminance = gaussian_similarity(x, y)
        middle = valid(inside) >= 0.5
        if not middle.any():
            return np.nan
        similar = structure * luminance if scale == scales - 1 else structure
        product *= max(similar[middle].mean(), 0.0) ** weight
        x, y, inside = halved(x), halved(y), halved(inside)
    return float(product)


def gaussian_similarity(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Contrast-structure and luminance terms of SSIM in Gaussian windows that lie in the image."""
    mean_x, mean_y = smoothed(x), smoothed(y)
    variance_x, variance_y = smoothed(x * x) - mean_x**2, smoothed(y * y) - mean_y**2
    structure = (2 * (smoothed(x * y) - mean_x * mean_y) + C2) / (variance_x + variance_y + C2)
    return structure, (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)


def smoothed(image: np.ndarray) -> np.ndarray:
    """Gaussian average of each window that lies in the image."""
    offsets = np.arange(GAUSSIAN_WINDOW) - GAUSSIAN_WINDOW // 2
    kernel = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    for axis in range(image.ndim):
        image = correlate1d(image, kernel / kernel.sum(), axis=axis)
    return valid(image)


def valid(image: np.ndarray) -> np.ndarray:
    """The middles of the Gaussian windows that lie in the image."""
    border = GAUSSIAN_WINDOW // 2
    return image[(slice(border, -border),) * image.ndim]


def halved(image: np.ndarray) -> np.ndarray:
    """Means of blocks of two pixels an axis; an odd pixel at the end is dropped."""
    for axis in range(image.ndim):
        pairs = np.moveaxis(image, axis, 0)[: image.shape[axis] // 2 * 2]
        image = np.moveaxis((pairs[::2] + pairs[1::2]) / 2, 0, axis)
    return image


def psnr(image: np.ndarray, reconstruction: np.ndarray, region: np.ndarray) -> float:
    """Peak signal-to-noise ratio of a region in dB, for a range of 1; infinite if all are equal, NaN without pixels."""
    x, y = clamped(image, reconstruction)
    error = np.mean((x[region] - y[region]) ** 2) if region.any() else np.nan
    return float(-10 * np.log10(error)) if error != 0 else np.inf


def mean_absolute_error(image: np.ndarray, reconstruction: np.ndarray, region: np.ndarray) -> float:
    """Mean absolute difference over a region; NaN without pixels."""
    x, y = clamped(image, reconstruction)
    return float(np.abs(x[region] - y[region]).mean()) if region.any() else np.nan


def clamped(image: np.ndarray, reconstruction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in double precision and within [0, 1]."""
    x, y = (np.clip(np.asarray(array, dtype=np.float64), 0, 1) for array in (image, reconstruction))
    return x, y


def inner(array: np.ndarray) -> np.ndarray:
    """An image without the border in which windows are incomplete."""
    return array[(slice(WINDOW // 2, -(WINDOW // 2)),) * array.ndim]
