"""Denoising autoencoder: its noise, its network, its loss, and the published score."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F
from torch.optim import Adam

from brainuad.models import create
from brainuad.models.dae import StandardisedConv, eroded, foreground, groups, median
from tiny import both_sizes, brains, build


def test_has_the_published_size():
    model = create("dae.DenoisingAE", (128, 128), {})
    # Blocks of two convolutions of kernel 3 with a norm each, transposed ones of kernel 2 between, one of kernel 1.
    count = 0
    for inputs, outputs in pairwise((1, 64, 128, 256, 512)):
        count += 9 * (inputs + outputs) * outputs + 6 * outputs
    for outputs in (256, 128, 64):
        count += 4 * 2 * outputs * outputs + outputs
        count += 9 * (2 * outputs + outputs) * outputs + 6 * outputs
    assert sum(p.numel() for p in model.parameters()) == count + 65 == 7_701_825
    assert model.nodes == (16, 16)
    assert [groups(channels) for channels in (64, 128, 256, 512)] == [8, 16, 16, 32]


@pytest.mark.parametrize(("size", "share"), [((128, 128), 2 / 3), ((48, 48, 48), (2 / 3) ** 1.5)])
def test_noise_is_coarse_and_in_the_foreground_only(size, share):
    model = create("dae.DenoisingAE", size, {"channels": (4, 4), "noise_cell": 8})
    torch.manual_seed(0)
    draws = torch.cat([model.noise(torch.ones(16, 1, *size)) for _ in range(8)])
    assert abs(draws.mean()) < 0.01
    # Between nodes that are 8 pixels apart linear interpolation leaves two thirds of the variance along each axis.
    assert draws.std().item() == pytest.approx(0.2 * share, rel=0.05)
    unrolled = draws - draws.mean(0)

    def correlation(distance):
        return (unrolled * unrolled.roll(distance, 2)).mean() / unrolled.square().mean()

    assert correlation(1) > 0.9
    assert abs(correlation(20)) < 0.1
    x = brains(2, size)
    noise = model.noise(x)
    assert not noise[x <= 0.01].any()
    assert (noise[x > 0.01] != 0).all()
    assert not torch.equal(noise[0], noise[1])


def test_noise_rolls():
    """A node of the grid is anywhere: the place of the largest value moves by other than whole cells."""
    model = create("dae.DenoisingAE", (64, 64), {"channels": (4, 4)})
    torch.manual_seed(0)
    peaks = [model.noise(torch.ones(1, 1, 64, 64)).abs().argmax().item() % 64 for _ in range(40)]
    assert len({peak % 9 for peak in peaks}) > 4


@both_sizes
def test_loss_is_the_squared_error_in_the_foreground(size):
    model, x = build("dae.DenoisingAE", size), brains(3, size)
    model.denoise = lambda noisy: torch.full_like(noisy, 0.5)
    expected = ((0.5 - x).square() * (x > 0.01)).mean()
    torch.testing.assert_close(model.loss(x), {"loss": expected})


def test_loss_adds_noise_and_reconstruct_does_not():
    model, x, seen = build("dae.DenoisingAE", (32, 32)).eval(), brains(2, (32, 32)), []
    model.denoise = lambda image: (seen.append(image), image)[1]
    torch.manual_seed(0)
    noise = model.noise(x)
    torch.manual_seed(0)
    loss = model.loss(x)["loss"]
    reconstruction = model.reconstruct(x)
    assert torch.equal(seen[0], x + noise)
    assert torch.equal(seen[1], x)
    torch.testing.assert_close(loss, noise.square().mean())
    assert torch.equal(reconstruction, torch.where(x > 0.01, x, 0))


@both_sizes
def test_every_weight_gets_a_gradient(size):
    model = build("dae.DenoisingAE", size).train()
    model.loss(brains(2, size))["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.ndim > 1)


def test_weights_are_standardised():
    layer = StandardisedConv(2, 3, 5)
    x = torch.rand(2, 3, 8, 8)
    weight = layer.convolution.weight.detach().numpy()
    axes = (1, 2, 3)
    standard = (weight - weight.mean(axes, keepdims=True)) / (weight.std(axes, ddof=1, keepdims=True) + 1e-5)
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    expected = F.conv2d(torch.from_numpy(padded), torch.from_numpy(standard), layer.convolution.bias)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        layer.convolution.weight.mul_(3).add_(1)
    torch.testing.assert_close(layer(x), expected, atol=1e-3, rtol=1e-3)


def test_the_optimiser_is_amsgrad():
    model = build("dae.DenoisingAE", (32, 32))
    (optimizer,) = model.optimizers(1e-4)
    assert isinstance(optimizer, Adam)
    assert optimizer.defaults["amsgrad"]
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (1e-4, 1e-5)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


@both_sizes
def test_published_score_equals_scipy(size):
    model = create("dae.DenoisingAE", size, {"channels": (4, 8), "published_score": True})
    x, reconstruction = brains(2, size), brains(2, size, seed=1)
    found = model.score(x, reconstruction, torch.full_like(x, 9.0))
    for image, other, anomaly in zip(x[:, 0].numpy(), reconstruction[:, 0].numpy(), found[:, 0].numpy(), strict=True):
        share = ndimage.uniform_filter((image > 0.01).astype(np.float64), 5, mode="constant")
        expected = ndimage.median_filter(abs(image - other) * (share > 0.95), 5, mode="mirror")
        np.testing.assert_allclose(anomaly, expected, atol=1e-6)


def test_the_map_is_that_of_all_models_by_default():
    model, x = build("dae.DenoisingAE", (32, 32)), brains(2, (32, 32))
    weight = torch.rand_like(x)
    assert torch.equal(model.score(x, 0 * x, weight), x * weight)


def test_erosion_and_median_of_a_square():
    x = torch.zeros(1, 1, 20, 20)
    x[..., 5:15, 5:15] = 1
    assert eroded(foreground(x)).sum() == 6 * 6
    x[0, 0, 10, 10] = 0
    assert median(x)[0, 0, 10, 10] == 1


def test_detail_takes_the_skips():
    model, x = build("dae.DenoisingAE", (32, 32)).eval(), brains(1, (32, 32)).requires_grad_()
    model.pool.register_forward_hook(lambda module, inputs, output: output.detach())  # nothing through the lower level
    (gradient,) = torch.autograd.grad(model.denoise(x).sum(), x)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("size", "params", "message"),
    [
        ((100, 128), {}, "divisible by 8"),
        ((8, 8), {}, "16 or more"),
        ((32, 32), {"channels": ()}, "one level"),
        ((32, 32), {"noise_deviation": 0.0}, "above 0"),
        ((32, 32), {"noise_cell": 0}, "noise_cell"),
    ],
)
def test_refuses_what_cannot_be_built(size, params, message):
    with pytest.raises(ValueError, match=message):
        create("dae.DenoisingAE", size, params)
