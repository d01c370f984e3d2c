"""The reversed autoencoder against its published sizes, closed forms and a step written without any sharing."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peers.rae import Naive
from torch import nn
from torch.nn import functional as F

from brainuad.models import create, load, save
from brainuad.models.rae import RAE, Block, Code, embedding_loss, squared_error

SIZES = [(32, 32), (8, 8, 16)]
both_sizes = pytest.mark.parametrize("size", SIZES, ids=["2d", "3d"])
PARTS = ("encoder", "decoder")


def build(size=SIZES[0], **params):
    """A small model in float64, with batch normalisation that is not the identity."""
    torch.manual_seed(0)
    model = create("rae.RAE", size, {"channels": (4, 8, 8), "latent": 4, **params}).double().train()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(part.weight, 0.7, 1.3)
            nn.init.uniform_(part.bias, -0.2, 0.2)
    return model


def images(size=SIZES[0], count=3, seed=1):
    return torch.rand(count, 1, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def backward(loss, **options):
    loss.backward(**options)


def count(module):
    return sum(p.numel() for p in module.parameters())


def statistics(module):
    return {name: value.clone() for name, value in module.state_dict().items() if "running" in name}


@pytest.mark.parametrize(("project_equal", "extra"), [(False, 0), (True, 512 * 512)])
def test_network_has_the_published_size(project_equal, extra):
    with torch.device("meta"):
        model = RAE((128, 128), project_equal=project_equal)
        code = model.encoder(torch.empty(2, 1, 128, 128))
        decoded = model.decoder(code.mean)
    assert count(model.encoder) == 16_360_896 + extra
    assert count(model.decoder) == 13_069_889 + extra
    assert count(model) == 29_430_785 + 2 * extra == (29_955_073 if project_equal else 29_430_785)
    expected = [(64, 64), (128, 32), (256, 16), (512, 8), (512, 4)]
    assert [tuple(level.shape) for level in code.levels] == [(2, c, side, side) for c, side in expected]
    assert code.mean.shape == code.logvar.shape == (2, 128)
    assert decoded.shape == (2, 1, 128, 128)


def test_sizes_beside_the_published_one():
    with torch.device("meta"):
        wide = RAE((224, 224))
        deep = RAE((256, 256), channels=(64, 128, 256, 512, 512, 512))
        oblong = RAE((64, 32, 96), channels=(4, 8, 8))
    assert wide.code_size == (7, 7)
    assert round(count(wide) / 1e6, 1) == 35.9
    assert deep.code_size == (4, 4)
    assert round(count(deep) / 1e6, 1) == 38.9
    assert oblong.code_size == (8, 4, 12)


@pytest.mark.parametrize("size", [(40, 32), (16, 16, 24)])
def test_sides_that_cannot_be_halved_are_refused(size):
    with pytest.raises(ValueError, match="divisible by 16"):
        RAE(size, channels=(4, 4, 4, 4))


@pytest.mark.parametrize("params", [{"batch_norm": "eval"}, {"draws": -1}, {"channels": ()}])
def test_parameters_without_meaning_are_refused(params):
    with pytest.raises(ValueError, match="correct its params"):
        RAE((32, 32), **params)


@pytest.mark.parametrize(("outputs", "project", "projected"), [(3, False, False), (3, True, True), (5, False, True)])
def test_block_has_its_formula(outputs, project, projected):
    torch.manual_seed(0)
    block = Block(2, 3, outputs, project)
    x = torch.randn(2, 3, 6, 6)
    first, norm, _, second, _ = block.body
    y = F.conv2d(x, first.weight, padding=1)
    mean, variance = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), unbiased=False, keepdim=True)
    y = F.leaky_relu((y - mean) / (variance + 1e-5).sqrt(), 0.2)
    y = F.conv2d(y, second.weight, padding=1)
    mean, variance = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), unbiased=False, keepdim=True)
    skip = F.conv2d(x, block.skip.weight) if projected else x
    expected = F.leaky_relu((y - mean) / (variance + 1e-5).sqrt() + skip, 0.2)
    torch.testing.assert_close(block(x), expected)
    assert len(list(block.parameters())) == 6 + projected
    torch.testing.assert_close(norm.running_mean, 0.1 * F.conv2d(x, first.weight, padding=1).mean((0, 2, 3)))


def test_kl_is_that_of_normal_distributions():
    mean, deviation = torch.tensor([[0.0, 0.0], [0.3, -1.2]]).double(), torch.tensor([[1.0, 1.0], [0.5, 2.0]]).double()
    code = Code(mean, 2 * deviation.log(), [])
    normal, standard = torch.distributions.Normal(mean, deviation), torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(normal, standard).sum(dim=1)
    torch.testing.assert_close(code.kl(), expected)
    assert code.kl()[0] == 0
    draws = torch.stack([code.sample() for _ in range(4000)])
    torch.testing.assert_close(draws.mean(dim=0), mean, atol=0.15, rtol=0)
    torch.testing.assert_close(draws.std(dim=0), deviation, atol=0.1, rtol=0)


def test_squared_error_is_a_sum_per_image():
    x = torch.zeros(2, 1, 4, 4)
    x[1, 0, :2] = 3
    torch.testing.assert_close(squared_error(x, torch.zeros_like(x)), torch.tensor([0.0, 8 * 9.0]))


def test_embedding_loss_has_its_closed_form():
    ones = torch.ones(2, 3, 2, 2)
    assert abs(embedding_loss([ones], [ones])) < 1e-6
    # Opposite vectors: mean squared error 4, cosine -1. Orthogonal unit vectors in 4-D: mean 2 / 4, cosine 0.
    assert abs(embedding_loss([ones], [-ones]) - (0.5 * 4 + 2)) < 1e-6
    unit, other = torch.eye(4)[:1], torch.eye(4)[1:2]
    assert abs(embedding_loss([unit, ones], [other, -ones]) - (0.5 * 0.5 + 1 + 4)) < 1e-6


def test_embedding_loss_has_gradients_on_both_sides():
    model = build()
    x = images()
    reconstruction = model.decoder(model.encoder(x).mean).detach()
    parameters = [p for name, p in model.encoder.named_parameters() if name.startswith("levels")]

    def gradients(left, right):
        codes = [model.encoder(image).levels for image in (x, reconstruction)]
        fixed = [codes[i] if moves else [v.detach() for v in codes[i]] for i, moves in enumerate((left, right))]
        return torch.autograd.grad(embedding_loss(*fixed), parameters)

    for one, other, both in zip(gradients(True, False), gradients(False, True), gradients(True, True), strict=True):
        assert one.abs().max() > 0
        assert other.abs().max() > 0
        torch.testing.assert_close(one + other, both)


@pytest.mark.parametrize(("reconstruct_term", "batch_norm"), [(0, "frozen"), (1e-8, "live"), (0.7, "frozen")])
@both_sizes
def test_step_equals_the_naive_one(size, reconstruct_term, batch_norm):
    model = build(size, reconstruct_term=reconstruct_term, batch_norm=batch_norm)
    naive, before = Naive(model, 1e-3), copy.deepcopy(model)
    optimizers = model.optimizers(1e-3)
    for seed in range(3):
        torch.manual_seed(seed)
        terms = model.step(images(size, seed=seed), optimizers, backward)
        torch.manual_seed(seed)
        expected = naive.step(images(size, seed=seed))
        torch.testing.assert_close((terms["encoder"].item(), terms["decoder"].item()), expected, rtol=1e-9, atol=0)
    for part in PARTS:
        triples = zip(*(getattr(m, part).parameters() for m in (model, naive, before)), strict=True)
        for own, theirs, old in triples:
            assert not torch.equal(own, old)
            torch.testing.assert_close(own, theirs, rtol=1e-7, atol=1e-8)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    size=st.one_of(st.tuples(*[st.integers(1, 3)] * 2), st.tuples(st.just(1), st.integers(1, 2), st.just(1))),
    params=st.fixed_dictionaries(
        {
            "channels": st.lists(st.integers(1, 6), min_size=2, max_size=3),
            "latent": st.integers(1, 6),
            "reconstruct_term": st.sampled_from([0, 1e-8, 0.7]),
            "batch_norm": st.sampled_from(["frozen", "live"]),
        }
    ),
    number=st.integers(2, 5),
    seed=st.integers(0, 2**31),
)
def test_steps_of_any_shape_equal_the_naive_ones(size, params, number, seed):
    size = tuple(2 ** len(params["channels"]) * side for side in size)
    model = build(size, **params)
    naive, optimizers = Naive(model, 1e-3), model.optimizers(1e-3)
    for step in range(2):
        x = images(size, number, seed + step)
        torch.manual_seed(seed + step)
        terms = model.step(x, optimizers, backward)
        torch.manual_seed(seed + step)
        expected = naive.step(x)
        torch.testing.assert_close((terms["encoder"].item(), terms["decoder"].item()), expected, rtol=1e-9, atol=0)
    for part in PARTS:
        for own, theirs in zip(*(getattr(m, part).parameters() for m in (model, naive)), strict=True):
            torch.testing.assert_close(own, theirs, rtol=1e-7, atol=1e-8)


class Watch:
    """An optimiser's stand-in that keeps all gradients as they are when it steps, and moves no weight."""

    def __init__(self, model):
        self.model, self.gradients = model, None

    def zero_grad(self, set_to_none=True):
        return None

    def step(self):
        self.gradients = {n: None if p.grad is None else p.grad.clone() for n, p in self.model.named_parameters()}


def test_each_objective_reaches_its_own_part_only():
    model = build(reconstruct_term=0.5)
    first, second = Watch(model), Watch(model)
    model.step(images(), [first, second], backward)
    for name, gradient in first.gradients.items():
        assert (gradient is not None and gradient.abs().max() > 0) == name.startswith("encoder.")
    for name, gradient in second.gradients.items():
        if name.startswith("encoder."):
            assert torch.equal(gradient, first.gradients[name])
        else:
            assert gradient.abs().max() > 0


def test_parts_make_up_the_objectives():
    model = build(reconstruct_term=0, beta_reconstruction=0.3, beta_kl=0.7, embedding_term=0.2)
    terms = model.step(images(), [Watch(model), Watch(model)], backward)
    assert not any(value.requires_grad for value in terms.values())
    torch.testing.assert_close(terms["loss"], 0.3 * terms["reconstruction"] + 0.7 * terms["kl"])
    torch.testing.assert_close(terms["encoder"], terms["loss"] + terms["exp_elbo"] + 0.2 * terms["embedding"])
    kl = terms["kl_reconstruction"] + terms["kl_fake"]
    torch.testing.assert_close(terms["decoder"], 0.3 * terms["reconstruction"] + 0.35 * kl)


def test_validation_loss_is_the_bound_at_the_mean():
    model = build().eval()
    x = images()
    first, second = model.loss(x), model.loss(x)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    torch.testing.assert_close(first["reconstruction"], F.mse_loss(model.reconstruct(x), x))
    torch.testing.assert_close(first["loss"], 0.5 * first["reconstruction"] + first["kl"])
    assert set(first) < set(model.step(x, [Watch(model), Watch(model)], backward))


@both_sizes
def test_frozen_batch_norm_keeps_its_constants(size):
    model = build(size)
    before = statistics(model)
    model.train().step(images(size), model.optimizers(1e-3), backward)
    after = statistics(model)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    for name, value in after.items():
        variance = 0.9 if name.startswith("encoder.") else 1.0
        assert torch.allclose(value, torch.full_like(value, 0.0 if name.endswith("mean") else variance))
    assert model.training
    trained = model.reconstruct(images(size))
    assert torch.equal(trained, model.eval().reconstruct(images(size)))


@both_sizes
def test_live_batch_norm_learns_statistics_in_train_mode_only(size):
    model = build(size, batch_norm="live")
    model.eval()
    before = statistics(model)
    model.reconstruct(images(size))
    model.loss(images(size))
    assert all(torch.equal(before[name], value) for name, value in statistics(model).items())
    model.train().step(images(size), model.optimizers(1e-3), backward)
    assert not any(torch.equal(before[name], value) for name, value in statistics(model).items())


@both_sizes
def test_reconstruction_averages_fixed_draws(size, tmp_path):
    mean, drawn = build(size).eval(), build(size, draws=3).eval()
    x = images(size)
    code = mean.encoder(x)
    assert torch.equal(mean.reconstruct(x), mean.decoder(code.mean))
    assert torch.equal(drawn.reconstruct(x), drawn.reconstruct(x))
    noise = torch.randn(3, 1, 4, generator=torch.Generator().manual_seed(0)).double()
    expected = torch.stack([mean.decoder(code.mean + n * (code.logvar / 2).exp()) for n in noise]).mean(dim=0)
    torch.testing.assert_close(drawn.reconstruct(x), expected)
    assert (drawn.reconstruct(x) - mean.reconstruct(x)).abs().max() > 1e-6
    torch.testing.assert_close(drawn.reconstruct(x[1:2]), drawn.reconstruct(x)[1:2])
    save(drawn, tmp_path / "model.safetensors", tmp_path / "model.json", {})
    with torch.no_grad():
        again = load(tmp_path / "model.safetensors").reconstruct(x.float())
    torch.testing.assert_close(again.double(), expected, atol=1e-5, rtol=1e-5)


def test_decoder_learns_from_the_updated_encoder_under_autocast():
    # Autocast keeps half-precision copies of the weights it has met, through an update of the weights too.
    model = build().float()
    passes = []
    model.encoder.register_forward_hook(lambda _, inputs, code: passes.append((inputs[0].detach(), code.mean.detach())))
    optimizers, x = model.optimizers(0.05), images().float()
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.step(x, optimizers, backward)
    assert len(passes) == 5
    for image, mean in passes[3:]:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model.encoder(image).mean, mean)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in terms.values())


class Scaled:
    """An optimiser behind a gradient scaler, as training in half precision sets it up."""

    def __init__(self, optimizer, scaler):
        self.optimizer, self.scaler = optimizer, scaler

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none=set_to_none)

    def step(self):
        self.scaler.step(self.optimizer)
        self.scaler.update()


def test_gradient_scaling_changes_nothing():
    model, x = build().float(), images().float()
    scaled = copy.deepcopy(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)  # the scale doubles at every update
    plain = model.optimizers(1e-3)
    optimizers = [Scaled(optimizer, scaler) for optimizer in scaled.optimizers(1e-3)]
    for seed in range(2):
        torch.manual_seed(seed)
        model.step(x, plain, backward)
        torch.manual_seed(seed)
        scaled.step(x, optimizers, lambda loss, **options: scaler.scale(loss).backward(**options))
    assert scaler.get_scale() == 1024 * 2**4
    for own, theirs in zip(model.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-5)
