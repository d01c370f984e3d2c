import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics.regression import MultiScaleSSIMMetric, compute_ssim_and_cs
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import gaussian_filter
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from brainuad.similarity import SCALE_WEIGHTS, mean_absolute_error, ms_ssim, psnr, ssim, ssim_map


@pytest.mark.parametrize("size", [(40, 30), (7, 9), (12, 11, 10)])
def test_ssim_of_the_frame_is_that_of_scikit_image(size):
    x, y = np.random.default_rng(0).random((2, *size))
    assert ssim_map(x, y).mean() == pytest.approx(structural_similarity(x, y, win_size=7, data_range=1), abs=1e-14)


def test_ssim_in_closed_form():
    x = np.random.default_rng(0).random((30, 30))
    assert ssim_map(x, x).mean() == pytest.approx(1)
    a, b = np.full((30, 30), 0.6), np.full((30, 30), 0.2)
    shifted = (2 * 0.6 * 0.2 + 0.01**2) / (0.6**2 + 0.2**2 + 0.01**2)
    assert ssim_map(a, b).mean() == pytest.approx(shifted), "flat images differ in the luminance term only"
    assert ssim_map(x, np.clip(x, 0, 1) + 3).mean() == ssim_map(x, np.ones_like(x)).mean(), "clamped to [0, 1]"
    assert ssim_map(x, 1 - x).mean() < 0, "inverted contrast"


def test_an_empty_image_has_the_ssim_of_the_background():
    image = np.zeros((60, 60))
    image[20:40, 20:40] = np.random.default_rng(0).uniform(0.4, 0.8, (20, 20))
    similar = ssim_map(image, np.zeros_like(image))
    assert similar.mean() > 0.75, "the frame of a small brain cannot tell"
    assert similar[17:37, 17:37].mean() < 0.01


def test_ssim_of_images_below_the_window_is_refused():
    with pytest.raises(ValueError, match=r"Images of shape \(6, 30\) are too small"):
        ssim_map(np.zeros((6, 30)), np.zeros((6, 30)))


def pair(size, seed=0):
    """A smooth image and a noisy copy of it."""
    generator = np.random.default_rng(seed)
    image = gaussian_filter(generator.random(size), 2)
    image = (image - image.min()) / np.ptp(image)
    return image, np.clip(image + 0.1 * generator.normal(size=size), 0, 1)


@pytest.mark.parametrize(("size", "scales"), [((128, 128), 4), ((176, 190), 5), ((64, 60), 3), ((48, 46, 50), 3)])
def test_ms_ssim_is_that_of_monai(size, scales, monkeypatch):
    x, y = pair(size)
    weights = tuple(np.array(SCALE_WEIGHTS[:scales]) / sum(SCALE_WEIGHTS[:scales]))
    monkeypatch.setattr(torch, "float", torch.float64)  # MONAI's window is of single precision
    metric = MultiScaleSSIMMetric(spatial_dims=len(size), data_range=1.0, weights=weights)
    expected = metric(torch.tensor(x)[None, None], torch.tensor(y)[None, None]).item()
    assert ms_ssim(x, y, np.ones(size, bool)) == pytest.approx(expected, abs=2e-6)


def window_by_window(x, y, region):
    """Multi-scale SSIM by the moments of each window, with its weights, about its own mean."""
    dims, product = x.ndim, 1.0
    scales = sum(min(x.shape) // 2**number >= 11 for number in range(5))
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = functools.reduce(np.multiply.outer, [line / line.sum()] * dims)
    axes, window = tuple(range(-dims, 0)), (11,) * dims
    for scale in range(scales):
        a, b = (sliding_window_view(image, window) for image in (x, y))
        mean_a, mean_b = ((weights * part).sum(axes, keepdims=True) for part in (a, b))
        spread_a, spread_b = ((weights * (p - m) ** 2).sum(axes) for p, m in ((a, mean_a), (b, mean_b)))
        shared = (weights * (a - mean_a) * (b - mean_b)).sum(axes)
        mean_a, mean_b = (mean.reshape(shared.shape) for mean in (mean_a, mean_b))
        similar = (2 * shared + 0.03**2) / (spread_a + spread_b + 0.03**2)
        if scale == scales - 1:
            similar = similar * (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
        counted = region[(slice(5, -5),) * dims] >= 0.5
        if not counted.any():
            return np.nan
        product *= max(similar[counted].mean(), 0) ** (SCALE_WEIGHTS[scale] / sum(SCALE_WEIGHTS[:scales]))
        x, y, region = (block_means(image) for image in (x, y, region))
    return product


def block_means(image):
    """Means of two pixels along each axis, block by block."""
    means = np.empty([length // 2 for length in image.shape])
    for block in np.ndindex(means.shape):
        means[block] = image[tuple(slice(2 * place, 2 * place + 2) for place in block)].mean()
    return means


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    size=st.one_of(st.tuples(*[st.integers(11, 70)] * 2), st.tuples(*[st.integers(11, 24)] * 3)),
    share=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_ms_ssim_is_that_of_its_windows(size, share, seed):
    x, y = pair(size, seed)
    region = gaussian_filter(np.random.default_rng(seed).random(size), 2)
    region = region <= np.quantile(region, share) if share else np.zeros(size, bool)
    expected = window_by_window(x, y, region.astype(float))
    assert ms_ssim(x, y, region) == pytest.approx(expected, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize(("size", "scales"), [((128, 128), 4), ((64, 60), 3), ((48, 46, 50), 3)])
def test_ms_ssim_of_the_brain_is_that_of_monais_maps(size, scales, monkeypatch):
    """MONAI's maps of each scale, whose windows are those of the region where half of their middle or more is in it."""
    monkeypatch.setattr(torch, "float", torch.float64)
    x, y = pair(size)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    region = sum(axis**2 for axis in axes) < 0.55
    y = np.where(region, y, np.clip(x + 3 * (y - x), 0, 1))
    images, inside = [torch.tensor(array)[None, None] for array in (x, y)], torch.tensor(region)[None, None].double()
    pool = {2: torch.nn.functional.avg_pool2d, 3: torch.nn.functional.avg_pool3d}[len(size)]
    expected, settings = 1.0, {"spatial_dims": len(size), "data_range": 1.0, "kernel_type": "gaussian"}
    for scale, weight in enumerate(SCALE_WEIGHTS[:scales]):
        both, contrast = compute_ssim_and_cs(
            *images, kernel_size=[11] * len(size), kernel_sigma=[1.5] * len(size), **settings
        )
        similar = both if scale == scales - 1 else contrast
        counted = inside[(..., *(slice(5, -5),) * len(size))] >= 0.5
        expected *= similar[counted].mean().item() ** (weight / sum(SCALE_WEIGHTS[:scales]))
        images, inside = [pool(image, 2) for image in images], pool(inside, 2)
    assert ms_ssim(x, y, region) == pytest.approx(expected, abs=2e-6)
    assert ms_ssim(x, y, region) != pytest.approx(ms_ssim(x, y, np.ones(size, bool)), abs=1e-3)


def test_ms_ssim_in_closed_form():
    x, _ = pair((96, 96))
    frame = np.ones((96, 96), bool)
    assert ms_ssim(x, x, frame) == pytest.approx(1)
    a, b = np.full((96, 96), 0.6), np.full((96, 96), 0.2)
    luminance = (2 * 0.6 * 0.2 + 0.01**2) / (0.6**2 + 0.2**2 + 0.01**2)
    last = SCALE_WEIGHTS[3] / sum(SCALE_WEIGHTS[:4])
    assert ms_ssim(a, b, frame) == pytest.approx(luminance**last), "flat images differ at the last scale only"
    corner = np.zeros((160, 160), bool)
    corner[:72, :72] = True
    half = np.where(np.arange(160) < 120, 0.6, 0.2) * np.ones((160, 1))
    assert ms_ssim(np.full((160, 160), 0.6), half, corner) == pytest.approx(1), "equal as far as its windows reach"
    assert ms_ssim(np.full((160, 160), 0.2), half, corner) == pytest.approx(luminance**last)
    assert ms_ssim(np.full((160, 160), 0.6), half, ~corner) < 0.9
    assert np.isnan(ms_ssim(x, x, np.zeros((96, 96), bool)))


def test_regions_count_their_own_pixels_only():
    x, y = pair((96, 96))
    region = np.zeros((96, 96), bool)
    region[20:70, 30:80] = True
    changed = y.copy()
    changed[:4] = changed[:, -4:] = 1.0
    for function in (ssim, psnr, mean_absolute_error):
        assert function(x, y, region) == pytest.approx(function(x, changed, region))
        assert function(x, y, np.ones_like(region)) != pytest.approx(function(x, changed, np.ones_like(region)))
        assert np.isnan(function(x, y, np.zeros_like(region)))


def test_psnr_and_mae_are_those_of_scikit_image_and_numpy():
    x, y = pair((40, 50))
    frame = np.ones((40, 50), bool)
    assert psnr(x, y, frame) == pytest.approx(peak_signal_noise_ratio(x, y, data_range=1))
    assert psnr(x, y, frame) == pytest.approx(-10 * np.log10(mean_squared_error(x, y)))
    assert mean_absolute_error(x, y, frame) == pytest.approx(np.abs(x - y).mean())
    assert psnr(np.full((9, 9), 0.5), np.full((9, 9), 0.4), np.ones((9, 9), bool)) == pytest.approx(20)
    assert psnr(x, x, frame) == np.inf
    assert np.isnan(psnr(x, y, ~frame)), "no pixels"
