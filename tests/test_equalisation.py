"""Slices are equalised together as scikit-image does it one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.exposure import equalize_adapthist

from brainuad import equalisation
from brainuad.equalisation import equalise


def one_by_one(images):
    return np.stack([equalize_adapthist(image) for image in images])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 9),
    height=st.integers(9, 150),
    width=st.integers(9, 150),
    blur=st.sampled_from([0, 1, 4]),
    air=st.floats(0, 0.9),
    levels=st.sampled_from([2, 5, 256, None]),
)
def test_every_slice_is_that_of_scikit_image_bit_for_bit(seed, count, height, width, blur, air, levels):
    images = gaussian_filter(np.random.default_rng(seed).random((count, height, width)), (0, blur, blur))
    images = (images - images.min()) / np.ptp(images)
    images[images < np.quantile(images, air)] = 0
    if levels:
        images = np.round(images * (levels - 1)) / (levels - 1)
    images = images.astype(np.float32)
    found, expected = equalise(images), one_by_one(images)
    assert found.dtype == expected.dtype == np.float32
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("side", [224, 256, 320])
def test_large_tiles_share_what_was_cut_evenly_first(side, rng):
    images = gaussian_filter(rng.random((2, side, side)), (0, 6, 6)).astype(np.float32)
    assert np.array_equal(equalise(images), one_by_one(images))


def test_constant_slices_and_the_cut_into_chunks_change_nothing(rng, monkeypatch):
    images = np.concatenate([np.zeros((1, 40, 40)), np.full((1, 40, 40), 0.5), rng.random((5, 40, 40))]).astype("f4")
    expected = one_by_one(images)
    for chunk in (1, 3, 100):
        monkeypatch.setattr(equalisation, "CHUNK", chunk)
        assert np.array_equal(equalise(images), expected)
