import hashlib
import subprocess
import sys
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from torchvision.models import squeezenet1_1

from brainuad.perceptual import TRUNK_SHA256, AlexNetLPIPS, PerceptualDistance, gaussian_matrix, spatial_lpips

ROOT = Path(__file__).parents[1]
TRUNK = ROOT / "resources/lpips/alexnet_features.safetensors"


@pytest.fixture(scope="module")
def distance():
    return PerceptualDistance(TRUNK, smoothing=2.0)


def batch(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def by_the_package(x, y, sigma):
    """The map of one pair of slices (x, y), by the lpips package alone on three equal channels."""
    network = spatial_lpips(TRUNK)
    assert isinstance(network, lpips.LPIPS)
    with torch.no_grad():
        x, y = (image.clamp(0, 1).expand(1, 3, -1, -1) for image in (x, y))
        map_ = network(x, y, normalize=True)[0, 0].numpy()
    return gaussian_filter(map_, sigma) if sigma else map_


def test_trunk_is_the_one_of_the_checksum():
    assert hashlib.sha256(TRUNK.read_bytes()).hexdigest() == TRUNK_SHA256
    assert TRUNK_SHA256 in (TRUNK.parent / "README.md").read_text()


def test_another_trunk_is_refused(tmp_path):
    save_file({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "trunk.safetensors")
    with pytest.raises(ValueError, match=r"trunk\.safetensors is not the AlexNet trunk"):
        PerceptualDistance(tmp_path / "trunk.safetensors", 2.0)
    with pytest.raises(ValueError, match=r"missing\.safetensors does not exist"):
        PerceptualDistance(tmp_path / "missing.safetensors", 2.0)


def test_every_convolution_of_the_trunk_is_loaded(distance):
    weights = load_file(TRUNK)
    loaded = [parameter for layer in distance.distance.layers for parameter in (layer.weight, layer.bias)]
    names = [f"features.{index}.{name}" for index in (0, 3, 6, 8, 10) for name in ("weight", "bias")]
    assert sorted(names) == sorted(weights)
    assert all(torch.equal(parameter, weights[name]) for parameter, name in zip(loaded, names, strict=True))


@pytest.mark.parametrize("size", [(64, 64), (48, 70)])
def test_batches_equal_the_package_image_by_image(distance, size):
    x, y = batch(18, 1, *size, seed=1), batch(18, 1, *size, seed=2) * 1.2 - 0.1
    maps = distance(x, y)
    assert maps.shape == (18, 1, *size)
    expected = np.stack([by_the_package(x[i], y[i], 2.0) for i in (0, 7, 17)])
    assert np.abs(maps[[0, 7, 17], 0].numpy() - expected).max() < 1e-6


@pytest.fixture(scope="module")
def networks(tmp_path_factory, distance):
    """By name of the trunk our distance, and the package's own network with the same weights; SqueezeNet's are random.

    The package's trunks are torchvision's, cut into slices whose layers keep their numbers.
    """
    torch.manual_seed(0)
    features = squeezenet1_1(weights=None).features
    random = {f"features.{name}": tensor for name, tensor in features.state_dict().items()}
    path = tmp_path_factory.mktemp("trunk") / "squeeze.safetensors"
    save_file(random, path)
    squeeze, pairs = PerceptualDistance(path, 2.0, "squeeze"), {}
    for name, ours, weights in (("alex", distance, load_file(TRUNK)), ("squeeze", squeeze, random)):
        with pytest.warns(UserWarning, match="deprecated"):
            package = lpips.LPIPS(net=name, spatial=True, pnet_rand=True, verbose=False).eval()
        for part in package.net.children():
            for number, layer in part.named_children():
                own = {key: weights[f"features.{number}.{key}"] for key in layer.state_dict()}
                layer.load_state_dict(own)
        pairs[name] = ours, package
    return pairs


@pytest.mark.parametrize("name", ["alex", "squeeze"])
@settings(max_examples=10, deadline=None, derandomize=True)
@given(size=st.tuples(*[st.integers(31, 90)] * 2), count=st.integers(1, 20), seed=st.integers(0, 2**31))
def test_batches_of_any_size_equal_the_package_image_by_image(networks, name, size, count, seed):
    ours, package = networks[name]
    x, y = (batch(count, 1, *size, seed=number) * 1.2 - 0.1 for number in (seed, seed + 1))
    found = ours(x, y)[:, 0].numpy()
    for i in {0, count // 2, count - 1}:
        with torch.no_grad():
            pair = (image[i : i + 1].clamp(0, 1).expand(1, 3, -1, -1) for image in (x, y))
            expected = gaussian_filter(package(*pair, normalize=True)[0, 0].numpy(), 2.0)
        np.testing.assert_allclose(found[i], expected, atol=1e-6, rtol=0)
    assert found.max() > 1e-4


@pytest.mark.parametrize("size", [(31, 31), (64, 50), (128, 128)])
def test_the_distance_is_that_of_the_package_before_smoothing(size):
    """Also its gradient, which a perceptual term of a loss needs."""
    ours, package = AlexNetLPIPS(TRUNK), spatial_lpips(TRUNK)
    x, y = (batch(3, 1, *size, seed=seed) * 2 - 1 for seed in (1, 2))
    found, expected = (network(x, y.requires_grad_()) for network in (ours, package))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(value.mean(), y)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-8)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(size=st.tuples(*[st.integers(7, 90)] * 2), count=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_the_first_layer_of_one_channel_is_that_of_three(distance, size, count, seed):
    """Also at the border, where the convolution sees zeros beside channels that are shifted."""
    shift, scale = (torch.tensor(values)[:, None, None] for values in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    image = batch(count, 1, *size, seed=seed) * 2 - 1
    expected = distance.distance.layers[0]((image - shift) / scale)
    torch.testing.assert_close(distance.distance.first_layer(image), expected, rtol=1e-5, atol=3e-5)


def test_a_loss_by_the_distance_can_be_learnt_from_again_and_again(distance):
    x = batch(2, 1, 40, 40)
    gradients = []
    for _ in range(2):
        y = x.clone().requires_grad_()
        distance.distance(y * 2 - 1, x.flip(0) * 2 - 1).mean().backward()
        gradients.append(y.grad)
    assert gradients[0].abs().max() > 0
    assert torch.equal(*gradients)
    assert not any(value.requires_grad for value in distance.state_dict(keep_vars=True).values())


def test_a_job_that_scores_does_not_wait_for_torchvision():
    code = f"from brainuad.perceptual import PerceptualDistance; PerceptualDistance({str(TRUNK)!r}, 2.0)"
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r}); {code}; print('torchvision' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_volumes_are_axial_slices_smoothed_in_three_dimensions(distance):
    x, y = batch(2, 1, 40, 36, 5, seed=3), batch(2, 1, 40, 36, 5, seed=4)
    slices = np.stack([by_the_package(x[1, :, :, :, z], y[1, :, :, :, z], None) for z in range(5)], axis=-1)
    assert np.abs(distance(x, y)[1, 0].numpy() - gaussian_filter(slices, 2.0)).max() < 1e-6


def test_identical_images_are_at_distance_zero(distance):
    x = batch(3, 1, 64, 64)
    assert torch.count_nonzero(distance(x, x.clone())) == 0
    assert torch.count_nonzero(distance(x + 1, torch.ones_like(x))) == 0, "images are clamped to [0, 1] first"


def test_distance_is_positive_and_highest_where_images_differ(distance):
    x = batch(1, 1, 96, 96) * 0.1 + 0.4
    y = x.clone()
    y[..., 40:56, 40:56] = 1
    maps = distance(x, y)[0, 0]
    assert maps.min() >= 0
    assert maps[40:56, 40:56].mean() > 3 * maps[:20, :20].mean()


def test_images_are_scaled_once(distance):
    """Maps of [0, 1] images scaled to [-1, 1] twice, or not at all, are others."""
    x, y = batch(1, 1, 64, 64, seed=5), batch(1, 1, 64, 64, seed=6)
    once = by_the_package(x[0], y[0], 2.0)
    assert np.abs(distance((x + 1) / 2, (y + 1) / 2)[0, 0].numpy() - once).max() > 1e-3
    assert np.abs(distance(x, y)[0, 0].numpy() - once).max() < 1e-6


@settings(max_examples=100, deadline=None, derandomize=True)
@given(length=st.integers(1, 100), sigma=st.floats(0.05, 12), seed=st.integers(0, 2**31))
def test_gaussian_matrix_is_the_filter_of_scipy(length, sigma, seed):
    signal = np.random.default_rng(seed).random(length)
    matrix = gaussian_matrix(length, sigma).numpy()
    np.testing.assert_allclose(matrix @ signal, gaussian_filter1d(signal, sigma), atol=1e-12)
    np.testing.assert_allclose(matrix.sum(1), 1)


def test_no_smoothing_leaves_the_map(distance):
    x, y = batch(1, 1, 40, 40, seed=7), batch(1, 1, 40, 40, seed=8)
    sharp = PerceptualDistance(TRUNK, smoothing=0)(x, y)
    assert np.abs(sharp[0, 0].numpy() - by_the_package(x[0], y[0], None)).max() < 1e-6


def test_slices_too_small_are_refused(distance):
    with pytest.raises(ValueError, match=r"30 x 64 pixels are too small.*`samples.size`"):
        distance(batch(1, 1, 30, 64), batch(1, 1, 30, 64))
    assert torch.isfinite(distance(batch(1, 1, 31, 31), batch(1, 1, 31, 31, seed=1))).all()


def test_module_is_silent_frozen_and_leaves_the_generator_alone(capfd, recwarn):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    module = PerceptualDistance(TRUNK, 2.0)
    assert torch.equal(torch.rand(1), expected)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    x = batch(1, 1, 40, 40).requires_grad_()
    assert not module(x, x * 0.5).requires_grad
    assert not any(parameter.requires_grad for parameter in module.parameters())
