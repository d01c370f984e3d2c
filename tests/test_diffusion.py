"""Diffusion: its schedule, its noise, its loss, and the way back, in closed form where there is one."""

import numpy as np
import pytest
import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from torch import nn

from brainuad.models import create
from brainuad.models.noise import coarse, mean_deviation, pyramid
from tiny import both_sizes, brains

TINY = {"channels": (8, 16), "attention": (False, True), "residual_units": 1}


def tiny(size=(32, 32), **params):
    torch.manual_seed(0)
    return create("diffusion.Diffusion", size, {**TINY, **params}).eval()


class Knowing(nn.Module):
    """A network that knows the image, and so tells the very noise that lies over it."""

    def __init__(self, model, x):
        super().__init__()
        self.kept, self.z, self.asked = model.kept, 2 * x - 1, []

    def forward(self, noisy, timesteps):
        self.asked.append(int(timesteps[0]))
        kept = self.kept[timesteps + 1].view(-1, *[1] * (noisy.ndim - 1))
        return (noisy - kept.sqrt() * self.z) / (1 - kept).sqrt()


class Fixed(nn.Module):
    """A network that answers with one noise, whatever it is asked."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def forward(self, noisy, timesteps):
        return self.noise.expand_as(noisy)


def test_has_the_documented_size():
    with torch.device("meta"):
        network = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            channels=(128, 128, 256, 384, 512),
            attention_levels=(False, False, False, True, True),
            num_res_blocks=2,
            num_head_channels=(64, 64, 128, 192, 256),
            norm_num_groups=32,
        )
    model = create("diffusion.Diffusion", (128, 128), {})
    shapes = {name: value.shape for name, value in network.named_parameters()}
    assert {name: value.shape for name, value in model.network.named_parameters()} == shapes
    assert sum(p.numel() for p in model.parameters()) == 90_856_321
    assert (model.levels, model.level, model.noise_name) == (1000, 250, "gaussian")


def test_schedule_is_linear():
    kept = tiny().kept.double().numpy()
    expected = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    assert kept[0] == 1
    np.testing.assert_allclose(kept[1:], expected, rtol=1e-4)
    assert kept[250] == pytest.approx(0.52, abs=0.01)  # at level 250 half of the variance is noise


@both_sizes
def test_diffusing_equals_monai(size):
    model, z, noise = tiny(size), brains(3, size), torch.randn(3, 1, *size)
    level = torch.tensor([1, 250, 1000])
    expected = DDPMScheduler(1000, "linear_beta").add_noise(z, noise, level - 1)
    torch.testing.assert_close(model.diffuse(z, noise, level), expected)


@both_sizes
@pytest.mark.parametrize("noise", ["gaussian", "pyramid"])
@pytest.mark.parametrize(("level", "jumps", "eta"), [(250, 10, 0.0), (1000, 7, 0.0), (250, 25, 1.0), (3, 10, 0.0)])
def test_a_perfect_predictor_restores_the_image(size, noise, level, jumps, eta):
    model, x = tiny(size, noise=noise, period=8, level=level, jumps=jumps, eta=eta), brains(2, size)
    model.network = Knowing(model, x)
    torch.testing.assert_close(model.reconstruct(x), x, atol=2e-4, rtol=0)
    assert len(model.network.asked) == min(level, jumps)
    assert model.network.asked == [step - 1 for step in model.path()[:-1]]


@both_sizes
def test_the_noise_itself_as_prediction_restores_the_image(size):
    model, x = tiny(size, jumps=10), brains(2, size)
    model.network = Fixed(model.draw(1, torch.Generator().manual_seed(model.seed)))
    torch.testing.assert_close(model.reconstruct(x), x, atol=1e-5, rtol=0)


def test_monais_scheduler_would_not_restore_it():
    """Why the way back is our own: with a perfect predictor, MONAI's ends elsewhere unless every level is visited."""
    x, noise = 2 * brains(1, (32, 32)) - 1, torch.randn(1, 1, 32, 32)
    scheduler = DDIMScheduler(1000, "linear_beta", clip_sample=False)
    scheduler.set_timesteps(10)
    z = scheduler.add_noise(x, noise, scheduler.timesteps[:1])
    for level in scheduler.timesteps:
        z, _ = scheduler.step(noise, int(level), z)
    assert (z - x).abs().max() > 0.1


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_jump_equals_monai(eta):
    """One level down, where MONAI's scheduler is right, from the same noise."""
    model, scheduler = tiny(eta=eta), DDIMScheduler(1000, "linear_beta")
    z, noise = 2 * brains(2, (32, 32)) - 1, torch.randn(2, 1, 32, 32)
    model.network = Fixed(noise)
    ours = model.jump(z, 250, 249, torch.Generator().manual_seed(1))
    theirs, _ = scheduler.step(noise, 249, z)
    if eta:  # what is added is one draw for both images, and MONAI's is another for each
        added = model.draw(1, torch.Generator().manual_seed(1))
        variance = scheduler._get_variance(249, 248)
        kept = scheduler.alphas_cumprod[248]
        theirs = theirs + ((1 - kept - variance).sqrt() - (1 - kept).sqrt()) * noise + variance.sqrt() * added
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_level_0_gives_the_image_back():
    model, x = tiny(level=0), brains(2, (32, 32))
    assert torch.equal(model.reconstruct(x), x)


@both_sizes
@pytest.mark.parametrize(
    "params", [{"jumps": 2}, {"jumps": 2, "noise": "pyramid", "period": 8}, {"jumps": 3, "eta": 1.0}], ids=str
)
def test_noise_at_scoring_is_the_same_for_all(size, params):
    model, x = tiny(size, **params), brains(3, size)
    torch.manual_seed(1)
    with torch.no_grad():
        together = model.reconstruct(x)
        torch.manual_seed(2)
        alone = torch.cat([model.reconstruct(image[None]) for image in x])
        other = tiny(size, **params, seed=1).reconstruct(x)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together, other, atol=1e-2)
    assert together.min() >= 0
    assert together.max() <= 1


def test_scoring_leaves_the_generator_alone():
    model, x = tiny(eta=1.0), brains(1, (32, 32))
    state = torch.get_rng_state()
    with torch.no_grad():
        model.reconstruct(x)
    assert torch.equal(torch.get_rng_state(), state)


@both_sizes
def test_loss_is_the_squared_error_of_the_noise(size):
    model, x = tiny(size), brains(4, size)
    model.network = Fixed(torch.zeros(1, 1, *size))
    torch.manual_seed(0)
    assert model.loss(x)["loss"].item() == pytest.approx(1, abs=0.1)
    model.network = Knowing(model, x)
    assert model.loss(x)["loss"].item() < 1e-4  # rounding at the first levels


def test_levels_are_uniform_and_spread_over_a_batch():
    model, x, seen = tiny(), brains(4, (32, 32)), []

    class Listening(nn.Module):
        def forward(self, noisy, timesteps):
            seen.append(timesteps)
            return torch.zeros_like(noisy)

    model.network = Listening()
    torch.manual_seed(0)
    for _ in range(500):
        model.loss(x)
    steps = torch.stack(seen)
    assert steps.min() >= 0
    assert steps.max() <= 999
    assert steps.double().mean().item() == pytest.approx(499.5, abs=15)
    assert np.histogram(steps.numpy(), bins=4, range=(0, 1000))[0].tolist() == [500] * 4


@both_sizes
def test_every_weight_gets_a_gradient(size):
    """After a first update: the last convolutions of MONAI's blocks begin at zero."""
    model = tiny(size).train()
    (optimizer,) = model.optimizers(1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        model.loss(brains(2, size))["loss"].backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.ndim > 1)


@pytest.mark.parametrize(("size", "period", "octaves"), [((128, 128), 64, 6), ((16, 16, 16), 8, 3)], ids=["2d", "3d"])
def test_pyramid_has_variance_1_and_coarse_scales(size, period, octaves):
    torch.manual_seed(0)
    draws = torch.cat([pyramid(2, size, octaves, 0.8, period) for _ in range(300)])
    assert draws.shape == (600, 1, *size)
    assert abs(draws.mean()) < 0.05
    assert draws.square().mean().item() == pytest.approx(1, rel=0.08)
    products = [(draws * draws.roll(distance, 2))[:, :, distance:].mean() for distance in (1, period // 8)]
    near, far = (float(product / draws.square().mean()) for product in products)
    assert near > 0.8
    assert 0.65 < far <= near


def test_a_pyramid_of_one_fine_octave_is_gaussian_noise():
    draws = pyramid(64, (32, 32), 1, 0.8, 1, torch.Generator().manual_seed(0))
    assert draws.var().item() == pytest.approx(1, rel=0.05)
    assert abs((draws * draws.roll(1, 2)).mean()) < 0.02


@pytest.mark.parametrize("cell", [1, 2, 8])
def test_mean_deviation_is_that_of_linear_interpolation(cell):
    share = np.arange(cell) / cell
    assert mean_deviation(cell, 1) ** 2 == pytest.approx(np.mean((1 - share) ** 2 + share**2))
    assert mean_deviation(cell, 3) == pytest.approx(mean_deviation(cell, 1) ** 3)


@both_sizes
def test_coarse_noise_is_linear_between_its_nodes(size):
    nodes = [5] * len(size)
    field = coarse(1, nodes, [9] * len(size), torch.Generator().manual_seed(0))[0, 0].numpy()
    numbers = torch.randn(1, 1, *nodes, generator=torch.Generator().manual_seed(0))[0, 0].numpy()
    every_second = (slice(None, None, 2),) * len(size)
    np.testing.assert_allclose(field[every_second], numbers, atol=1e-6)
    between = field[(slice(1, None, 2), *every_second[1:])]
    np.testing.assert_allclose(between, (numbers[1:] + numbers[:-1]) / 2, atol=1e-6)


def test_takes_over_monais_weights():
    model = tiny()
    network = DiffusionModelUNet(2, 1, 1, 1, (8, 16), (False, True), 8, num_head_channels=(4, 8))
    model.adopt(network.state_dict())
    x, step = torch.rand(1, 1, 32, 32), torch.tensor([3])
    with torch.no_grad():
        assert torch.equal(model.network(x, step), network.eval()(x, step))


@pytest.mark.parametrize(
    ("size", "params", "message"),
    [
        ((30, 32), {"channels": (8, 8, 8), "attention": (False,) * 3}, "divisible by 4"),
        ((32, 32), {**TINY, "attention": (True,)}, "as many"),
        ((32, 32), {**TINY, "heads": 3}, "3 heads"),
        ((32, 32), {**TINY, "noise": "simplex"}, "gaussian or pyramid"),
        ((32, 32), {**TINY, "level": 1001}, "level 1001"),
        ((32, 32), {**TINY, "jumps": 0}, "0 jumps"),
    ],
)
def test_refuses_what_cannot_be_built(size, params, message):
    with pytest.raises(ValueError, match=message):
        create("diffusion.Diffusion", size, params)


def test_the_path_ends_at_the_image():
    assert tiny(level=250, jumps=10).path() == [250, 225, 200, 175, 150, 125, 100, 75, 50, 25, 0]
    assert tiny(level=3, jumps=10).path() == [3, 2, 1, 0]
    assert len(tiny(level=250, jumps=250).path()) == 251
