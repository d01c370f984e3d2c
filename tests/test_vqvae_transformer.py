"""VQ-VAE + Transformer: its network against MONAI's, its healing against loops that cache nothing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import VQVAETransformerInferer
from monai.networks.nets import DecoderOnlyTransformer
from monai.utils import Ordering
from peers.healing import monai_transformer, naive, tutorial_healing
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from brainuad.models import create, load, save
from brainuad.models.healing import Cache, choose, heal, log_likelihood, sample
from brainuad.models.vqvae_transformer import Transformer, reading_order, weights_from_monai
from tiny import backward, brains, use_all_codes

VARIANTS = [f"{kind}{axes}" for kind in ("raster", "transposed") for axes in ("", "-x", "-y", "-xy")]
CODES, LENGTH = 16, 240


def network(tokens=CODES, length=LENGTH, width=32, depth=3, heads=4):
    """An untrained transformer, its weights enlarged so that tokens matter to those after them."""
    torch.manual_seed(1)
    transformer = Transformer(tokens, length, width, depth, heads).eval()
    for name, weight in transformer.named_parameters():
        if "attn" in name or "to_logits" in name:
            weight.data.mul_(3)
    return transformer


def sequences(count, length=LENGTH, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, CODES, (count, length)))


def build(params=None, size=(32, 32), count=4):
    """A tiny model whose upstream uses all its codes, and smooth random images."""
    torch.manual_seed(0)
    upstream = create("vqvae.VQVAE", size, {"channels": (8, 8), "residual_units": 1, "codes": 8, "code_channels": 4})
    noise = np.random.default_rng(0).uniform(size=(count, 1, *size))
    x = torch.tensor(np.array([[gaussian_filter(image[0], 1.5)] for image in noise]), dtype=torch.float32)
    x = (x - x.min()) / (x.max() - x.min())
    use_all_codes(upstream, x)
    params = {"width": 16, "depth": 2, "heads": 2, **(params or {})}
    model = create("vqvae_transformer.VQVAETransformer", size, params, upstream).eval()
    assert len(model.encode(x).unique()) > 4
    return model, x


def lowest(transformer, sequence, share):
    """Which tokens are strictly below that quantile of their sequence, and the cache."""
    cache = Cache(transformer, len(sequence))
    likelihood = log_likelihood(transformer, sequence, cache)
    if share == 1:
        return torch.ones_like(sequence, dtype=torch.bool), cache
    return likelihood < likelihood.quantile(share, dim=1, keepdim=True), cache


def test_network_equals_monai():
    torch.manual_seed(0)
    theirs = DecoderOnlyTransformer(CODES + 1, 64, 32, 3, 4).eval()
    ours = Transformer(CODES, 64, 32, 3, 4).eval()
    ours.load_state_dict(weights_from_monai(theirs.state_dict()))
    for length in (1, 17, 64):
        inputs = F.pad(sequences(3, length), (1, 0), value=CODES)[:, :-1]
        torch.testing.assert_close(ours(inputs), theirs(inputs), atol=3e-6, rtol=0)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    grid=st.tuples(*[st.integers(1, 7)] * 2),
    depth=st.integers(1, 3),
    heads=st.integers(1, 4),
    channels=st.integers(4, 9),  # of two a norm leaves signs, and divides by deviations near zero
    count=st.integers(1, 5),
    flash=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_steps_of_any_shape_equal_those_of_monai(grid, depth, heads, channels, count, flash, seed):
    """Losses and gradients of updates as training makes them, against MONAI's network and plain Adam."""
    torch.manual_seed(seed)
    size, params = [4 * side for side in grid], {"width": heads * channels, "depth": depth, "heads": heads}
    upstream = create("vqvae.VQVAE", size, {"channels": (8, 8), "residual_units": 1, "code_channels": 4}).eval()
    x = torch.rand(count, 1, *size)
    use_all_codes(upstream, torch.rand(CODES, 1, *size))
    model = create("vqvae_transformer.VQVAETransformer", size, params, upstream).train()
    codes = upstream.network.index_quantize(x).flatten(1)
    theirs = monai_transformer(model.transformers[0], flash)
    optimizers, optimizer = model.optimizers(1e-3), torch.optim.Adam(theirs.parameters(), 1e-3)
    for step in range(3):
        found = model.step(x, optimizers, backward)["loss"]
        optimizer.zero_grad()
        logits = theirs(F.pad(codes, (1, 0), value=theirs.num_tokens - 1)[:, :-1])
        expected = F.cross_entropy(logits.transpose(1, 2), codes)
        expected.backward()
        torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=0)
        others = dict(theirs.named_parameters())
        for name, weight in model.transformers[0].named_parameters() if step == 0 else ():
            torch.testing.assert_close(weight.grad, others[name].grad, rtol=1e-4, atol=3e-6)
        optimizer.step()


def test_network_equals_monai_generative(generative):
    torch.manual_seed(0)
    theirs = generative.DecoderOnlyTransformer(CODES + 1, 64, 32, 3, 4).eval()
    ours = Transformer(CODES, 64, 32, 3, 4).eval()
    ours.load_state_dict(weights_from_monai(theirs.state_dict()))
    inputs = sequences(2, 64)
    torch.testing.assert_close(ours(inputs), theirs(inputs), atol=3e-6, rtol=0)


@pytest.fixture(scope="module")
def trained():
    """A model that has learnt to tell likely codes from unlikely ones, and 64 images, some of them spoilt."""
    torch.manual_seed(0)
    upstream = create("vqvae.VQVAE", (48, 48), {"channels": (8, 8), "residual_units": 1, "code_channels": 4}).eval()
    x = brains(64, (48, 48))
    x = (x + 0.1 * torch.from_numpy(np.random.default_rng(0).normal(size=x.shape)).float()).clamp(0, 1)
    use_all_codes(upstream, x)
    params = {"width": 32, "depth": 3, "heads": 4}
    model = create("vqvae_transformer.VQVAETransformer", (48, 48), params, upstream).train()
    optimizers = model.optimizers(3e-3)
    first, *_, last = [model.step(x[i % 8 :: 8], optimizers, backward)["loss"] for i in range(80)]
    assert last < first / 1.5
    x[::2, :, 20:30, 16:28] = 0.9
    return model.eval(), x


@pytest.mark.parametrize("peer", ["monai", "monai-generative"])
@pytest.mark.parametrize("quantile", [0.03, 0.1])
def test_healed_tokens_equal_the_tutorials(trained, generative, peer, quantile):
    model, x = trained
    if peer == "monai":
        network, inferer, ordering = DecoderOnlyTransformer, VQVAETransformerInferer(), Ordering
        names = {"norm2": "norm2"}
    else:
        network, inferer = generative.DecoderOnlyTransformer, generative.VQVAETransformerInferer()
        ordering, names = generative.Ordering, {"norm2": "norm3"}
    theirs = network(CODES + 1, 144, 32, 3, 4).eval()
    theirs.num_tokens = CODES + 1
    weights = {name.replace("norm2", names["norm2"]): w for name, w in model.transformers[0].state_dict().items()}
    missing = theirs.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys
    assert all("causal_mask" in name or "cross_attn" in name for name in missing.missing_keys)
    order = ordering("raster_scan", 2, (1, 12, 12))
    model.quantile = quantile
    codes = model.encode(x)
    cache = Cache(model.transformers[0], len(x))
    mask = model.unlikely(log_likelihood(model.transformers[0], codes, cache))
    healed = heal(model.transformers[0], codes, mask, cache).view(-1, 12, 12)
    with torch.no_grad():
        vqvae = model.upstream.network
        expected = [tutorial_healing(inferer, vqvae, theirs, order, image[None], quantile) for image in x]
    assert torch.equal(healed, torch.cat(expected))
    assert (healed.flatten(1) != codes).any(1).sum() > 32


def test_network_has_the_published_size():
    upstream = create("vqvae.VQVAE", (128, 128), {"channels": (8, 8), "residual_units": 1})
    model = create("vqvae_transformer.VQVAETransformer", (128, 128), {}, upstream)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    with torch.device("meta"):
        theirs = DecoderOnlyTransformer(17, 1024, 128, 16, 16)
    assert sum(p.numel() for p in theirs.parameters()) == 3_305_745
    idle = 16 * 2 * 128  # MONAI's norm of a cross-attention that is not there, one a block
    assert parameters == 3_305_745 - idle == 3_301_649  # the latter is monai-generative's count
    assert set(dict(model.named_buffers(prefix="")).keys()) - set(dict(upstream.named_buffers("upstream"))) == {
        "orders"
    }


def test_loss_and_likelihood_equal_monai():
    model, x = build()
    theirs = DecoderOnlyTransformer(9, 64, 16, 2, 2).eval()
    model.transformers[0].load_state_dict(weights_from_monai(theirs.state_dict()))
    ordering, inferer = Ordering("raster_scan", 2, (1, 8, 8)), VQVAETransformerInferer()
    logits, target, _ = inferer(x, model.upstream.network, theirs, ordering, return_latent=True)
    torch.testing.assert_close(model.loss(x)["loss"], F.cross_entropy(logits.transpose(1, 2), target))
    expected = inferer.get_likelihood(x, model.upstream.network, theirs, ordering)
    likelihood = log_likelihood(model.transformers[0], model.encode(x))
    torch.testing.assert_close(likelihood.view(-1, 8, 8), expected, atol=1e-5, rtol=1e-5)


def test_each_member_learns_as_if_alone():
    model, x = build({"orderings": ["raster", "transposed-y"]})
    codes = model.encode(x)
    losses = [member.loss(codes[:, order]) for member, order in model.members()]
    weights = [list(member.parameters()) for member in model.transformers]
    expected = [torch.autograd.grad(loss, own) for loss, own in zip(losses, weights, strict=True)]
    terms = model.step(x, model.optimizers(1e-3), backward)
    for own, gradients in zip(weights, expected, strict=True):
        assert all(torch.equal(p.grad, g) for p, g in zip(own, gradients, strict=True))
    torch.testing.assert_close(terms["loss"], torch.stack(losses).mean().detach())


def test_likely_tokens_need_no_logarithm_of_zero():
    transformer = network()
    transformer.to_logits.weight.data.mul_(1000)
    assert log_likelihood(transformer, sequences(2)).isfinite().all()


def test_later_tokens_do_not_matter():
    transformer, inputs = network(), sequences(1)
    changed = inputs.clone()
    changed[0, 100] = (changed[0, 100] + 1) % CODES
    difference = (transformer(inputs) - transformer(changed))[0].abs().amax(-1)
    assert not difference[:100].any()
    assert (difference[100:] > 0).all()


def test_orderings_equal_monai():
    size, reflections = (4, 6), {"": (False, False), "-x": (True, False), "-y": (False, True), "-xy": (True, True)}
    orders = {name: reading_order(name, size) for name in VARIANTS}
    for name, order in orders.items():
        kind, _, axes = name.partition("-")
        expected = Ordering(
            "raster_scan",
            2,
            (1, *size),
            reflected_spatial_dims=reflections[f"-{axes}" if axes else ""],
            transpositions_axes=((1, 0),) if kind == "transposed" else None,
            transformation_order=("reflect", "transpose"),
        )
        np.testing.assert_array_equal(order, expected.get_sequence_ordering())
    assert len({tuple(order.tolist()) for order in orders.values()}) == 8


@pytest.mark.parametrize("size", [(32, 32), (16, 16, 16)])
def test_orderings_invert(size):
    names = ["raster-x", "transposed-y", "random"] + ["transposed-xz"] * (len(size) == 3)
    model, x = build({"orderings": names}, size)
    codes = model.encode(x)
    for order in model.orders:
        assert torch.equal(order.sort().values, torch.arange(codes.shape[1]))
        assert torch.equal(model.image(codes[:, order], order), model.upstream.encode(x))


def test_mask_is_strictly_below():
    model, _ = build({"quantile": 0.03})
    likelihood = -torch.from_numpy(
        np.random.default_rng(0).permuted(np.tile(np.arange(1024.0), (3, 1)), axis=1)
    ).float()
    mask = model.unlikely(likelihood)
    assert mask.sum(1).tolist() == [31, 31, 31]  # the tutorial's number
    assert torch.equal(mask, likelihood < -992.5)
    assert not model.unlikely(torch.zeros(2, 64)).any()
    fixed, _ = build({"threshold": 0.25})
    assert fixed.unlikely(torch.tensor([[0.2, 0.25, 0.3]]).log())[0].tolist()[::2] == [True, False]
    assert not fixed.unlikely(torch.full((1, 1), math.log(0.25), dtype=torch.float64)).any()


@pytest.mark.parametrize(("share", "count"), [(0.03, 6), (0.1, 4), (1, 2)])
def test_healing_equals_naive_loop(share, count):
    transformer, sequence = network(), sequences(count)
    mask, cache = lowest(transformer, sequence, share)
    healed = heal(transformer, sequence, mask, cache)
    assert torch.equal(healed, naive(transformer, sequence, mask))
    assert torch.equal(healed[~mask], sequence[~mask])
    assert (healed != sequence).any(1).all()
    assert healed.max() < CODES


def test_healing_of_uneven_masks():
    transformer, sequence = network(), sequences(5, seed=2)
    mask = torch.zeros_like(sequence, dtype=torch.bool)
    mask[1, [0, LENGTH - 1]] = True
    mask[2, 17:29] = True
    mask[3, LENGTH - 1] = True
    mask[4, ::7] = True
    cache = Cache(transformer, 5)
    log_likelihood(transformer, sequence, cache)
    assert torch.equal(heal(transformer, sequence, mask, cache), naive(transformer, sequence, mask))
    assert torch.equal(heal(transformer, sequence, mask & False, cache), sequence)


def test_healed_tokens_change_what_follows():
    transformer, sequence = network(), sequences(4)
    mask, cache = lowest(transformer, sequence, 0.1)
    stale = sequence.clone()
    with torch.no_grad():
        stale[mask] = transformer(transformer.shift(sequence))[..., :-1].argmax(-1)[mask]
    healed = heal(transformer, sequence, mask, cache)
    assert not torch.equal(stale, naive(transformer, sequence, mask))
    assert not torch.equal(healed, stale)


def test_cache_serves_several_draws():
    transformer, sequence = network(), sequences(3)
    mask, cache = lowest(transformer, sequence, 0.1)
    uniforms = torch.from_numpy(np.random.default_rng(3).uniform(size=(2, *sequence.shape)))
    draws = [heal(transformer, sequence, mask, cache, numbers) for numbers in uniforms]
    assert not torch.equal(*draws)
    for numbers, draw in zip(uniforms, draws, strict=True):
        assert torch.equal(draw, naive(transformer, sequence, mask, numbers))


def test_sampler_equals_naive_loop():
    transformer = network(length=100)
    uniforms = torch.from_numpy(np.random.default_rng(0).uniform(size=(3, 100)))
    blank = torch.zeros(3, 100, dtype=torch.long)
    expected = naive(transformer, blank, torch.ones_like(blank, dtype=torch.bool), uniforms)
    assert torch.equal(sample(transformer, uniforms), expected)
    assert len(expected.unique()) > 8


def uniforms_of(generator, count, length, edges):
    """Random numbers, of which a share is the smallest there may be and another nearly 1."""
    kind, uniforms = generator.random((count, length)), generator.random((count, length))
    uniforms[kind < edges / 2], uniforms[kind > 1 - edges / 2] = 0, 1 - 1e-9
    return torch.from_numpy(uniforms)


TRANSFORMERS = st.fixed_dictionaries(
    {"tokens": st.integers(2, 9), "length": st.integers(1, 24), "depth": st.integers(1, 2), "heads": st.integers(1, 4)}
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    sizes=TRANSFORMERS,
    count=st.integers(1, 5),
    seed=st.integers(0, 2**31),
    share=st.sampled_from([0.0, 0.05, 0.3, 0.9, 1.0]),
    together=st.booleans(),
    edges=st.sampled_from([None, 0.0, 0.5]),
)
def test_healing_equals_naive_loop_for_any_mask(sizes, count, seed, share, together, edges):
    """Masks of each sequence or of all; the most likely tokens, or those at uniforms, once more with the same cache."""
    transformer, length = network(**sizes, width=8 * sizes["heads"]), sizes["length"]
    generator = np.random.default_rng(seed)
    sequence = torch.from_numpy(generator.integers(0, sizes["tokens"], (count, length)))
    mask = torch.from_numpy(generator.random((1 if together else count, length)) < share).expand(count, -1)
    cache = Cache(transformer, count)
    likelihood = log_likelihood(transformer, sequence, cache)
    torch.testing.assert_close(likelihood, prefix_by_prefix(transformer, sequence), atol=1e-5, rtol=1e-5)
    for _ in range(2):
        uniforms = None if edges is None else uniforms_of(generator, count, length, edges)
        healed = heal(transformer, sequence, mask, cache, uniforms)
        assert torch.equal(healed, naive(transformer, sequence, mask, uniforms))


@torch.no_grad()
def prefix_by_prefix(transformer, sequence):
    """Log-likelihood of each token by a pass over what comes before it alone."""
    inputs = F.pad(sequence, (1, 0), value=transformer.tokens)
    logits = [transformer(inputs[:, : place + 1])[:, -1] for place in range(sequence.shape[1])]
    return torch.stack(logits, 1).log_softmax(-1).gather(-1, sequence[..., None])[..., 0]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    sizes=TRANSFORMERS,
    count=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    edges=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_sampler_equals_naive_loop_for_any_length_and_uniforms(sizes, count, seed, edges):
    transformer = network(**sizes, width=8 * sizes["heads"])
    uniforms = uniforms_of(np.random.default_rng(seed), count, sizes["length"], edges)
    blank = torch.zeros(count, sizes["length"], dtype=torch.long)
    expected = naive(transformer, blank, torch.ones_like(blank, dtype=torch.bool), uniforms)
    assert torch.equal(sample(transformer, uniforms), expected)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    logits=st.lists(st.one_of(st.just(-math.inf), st.integers(-2, 2).map(float), st.floats(-50, 50)), min_size=1),
    likely=st.floats(-50, 50),
    uniform=st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 5e-324, 1 - 2**-53])),
)
def test_tokens_are_chosen_by_their_cumulative_share(logits, likely, uniform):
    """The first at which the sum of the shares exceeds the uniform, one by one; the last logit begins sequences."""
    logits = [*logits, likely]
    row = torch.tensor([[*logits, 60.0]], dtype=torch.float64)
    (found,) = choose(row, torch.tensor([uniform], dtype=torch.float64)).tolist()
    weights = [math.exp(logit - max(logits)) for logit in logits]
    before, total = math.fsum(weights[:found]), math.fsum(weights)
    assert weights[found] > 0
    assert before <= uniform * total + 1e-15 * total * len(weights)
    assert uniform * total <= before + weights[found] + 1e-15 * total * len(weights)
    assert logits[choose(row, None).item()] == max(logits)


def test_beginning_is_never_produced():
    transformer, sequence = network(), sequences(2)
    transformer.to_logits.bias.data[CODES] = 100
    mask, cache = lowest(transformer, sequence, 0.1)
    uniforms = torch.full(sequence.shape, 1 - 1e-12, dtype=torch.float64)
    assert heal(transformer, sequence, mask, cache).max() < CODES
    assert heal(transformer, sequence, mask, cache, uniforms).max() < CODES
    assert torch.equal(heal(transformer, sequence, mask, cache), naive(transformer, sequence, mask))


def test_impossible_tokens_are_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, 9.0]]).expand(4, -1)
    uniforms = torch.tensor([0.0, 0.49, 0.5, 1 - 1e-16], dtype=torch.float64)
    assert choose(logits, uniforms).tolist() == [1, 1, 3, 3]


def test_reconstruction_is_the_mean_over_members_and_draws():
    params = {"orderings": ["raster", "random"], "quantile": 0.2, "healing": "sampled", "draws": 2, "seed": 4}
    model, x = build(params)
    codes, expected = model.encode(x), []
    uniforms = torch.rand((2, 2, 64), dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    for (member, order), rows in zip(model.members(), uniforms, strict=True):
        mask, _ = lowest(member, codes[:, order], 0.2)
        for row in rows:
            healed = torch.empty_like(codes)
            healed[:, order] = naive(member, codes[:, order], mask, row.expand(4, -1))
            expected.append(model.upstream.decode(healed.view(4, 8, 8)))
    with torch.no_grad():
        torch.testing.assert_close(model.reconstruct(x), torch.stack(expected).mean(0), atol=1e-5, rtol=1e-5)
        assert torch.equal(model.reconstruct(x), model.reconstruct(x))
        torch.testing.assert_close(model.reconstruct(x[2:3]), model.reconstruct(x)[2:3], atol=1e-5, rtol=1e-5)


def test_residual_is_masked_where_codes_were_healed():
    model, x = build({"mask_residual": True, "mask_smoothing": 1.5, "quantile": 0.1})
    likelihood = log_likelihood(model.transformers[0], model.encode(x)).view(4, 8, 8).numpy()
    below = likelihood < np.quantile(likelihood, 0.1, axis=(1, 2), keepdims=True)
    binary = np.kron(below, np.ones((4, 4)))
    expected = np.stack([gaussian_filter(image, 1.5) for image in binary])[:, None]
    np.testing.assert_allclose(model.mask(x).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(model.score(x, 0 * x, x + 1).numpy(), (x * (x + 1)).numpy() * expected, atol=1e-6)
    sharp, _ = build({"mask_residual": True, "mask_smoothing": 0, "quantile": 0.1})
    np.testing.assert_array_equal(sharp.mask(x).numpy()[:, 0], binary)


def test_samples_are_images():
    model, _ = build()
    uniforms = torch.from_numpy(np.random.default_rng(0).uniform(size=(3, 64)))
    with torch.no_grad():
        images = model.sample(3, uniforms)
        assert images.shape == (3, 1, 32, 32)
        torch.testing.assert_close(model.sample(1, uniforms[:1]), images[:1], atol=1e-5, rtol=1e-5)
        assert model.sample(2).shape == (2, 1, 32, 32)
    with pytest.raises(ValueError, match="uniforms must have the shape"):
        model.sample(2, uniforms)


def test_random_ordering_is_saved(tmp_path):
    model, x = build({"orderings": ["random", "random"], "quantile": 0.2})
    assert not torch.equal(*model.orders)
    save(model, tmp_path / "model.safetensors", tmp_path / "model.json", {})
    torch.manual_seed(99)
    loaded = load(tmp_path / "model.safetensors")
    assert torch.equal(loaded.orders, model.orders)
    with torch.no_grad():
        assert torch.equal(loaded.reconstruct(x), model.reconstruct(x))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"orderings": ["raster-z"]}, "did you mean 'raster-"),
        ({"orderings": []}, "orderings is empty"),
        ({"heads": 3}, "no multiple of heads 3"),
        ({"quantile": 3}, "quantile 3 is not in"),
        ({"threshold": 0}, "threshold 0 is not in"),
        ({"healing": "best"}, "'best' is neither greedy nor sampled"),
        ({"draws": 5}, "greedy healing has no use for 5 draws"),
        ({"mask_smoothing": -1}, "mask_smoothing -1 is negative"),
    ],
)
def test_mistakes_are_named(params, message):
    with pytest.raises(ValueError, match=message):
        build(params)
