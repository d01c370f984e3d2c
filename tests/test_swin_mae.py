"""What is particular to the Swin MAE: published numbers, masking, shifted windows, complementary masks."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.nets.swin_unetr import compute_mask
from peers.swin_mae import images as joined
from peers.swin_mae import like
from torch import nn

from brainuad.models import create
from brainuad.models.swin_mae import Block, Merge, SwinMAE, attention_mask, enlarge, join, split

SIZES = [(32, 32), (16, 16, 16)]
both_sizes = pytest.mark.parametrize("size", SIZES, ids=["2d", "3d"])


def build(size=(32, 32), **params):
    torch.manual_seed(0)
    return create("swin_mae.SwinMAE", size, {**SwinMAE.tiny, **params}).eval()


def images(count, size, seed=0):
    return torch.rand(count, 1, *size, generator=torch.Generator().manual_seed(seed))


def count(parameters):
    return sum(p.numel() for p in parameters)


def trained(model):
    return count(p for p in model.parameters() if p.requires_grad)


@pytest.fixture(scope="module")
def published():
    return create("swin_mae.SwinMAE", (224, 224), {"channels": 3}).eval()


def test_published_parameter_counts(published):
    assert count(published.parameters()) == 26_936_916
    assert trained(published) == 26_635_860
    assert published.positions.shape == (1, 3136, 96)
    assert count([*published.embedding.parameters(), *published.embedding_norm.parameters()]) == 4_896
    assert count(published.encoder.parameters()) == 20_406_954
    assert count(published.decoder[0].parameters()) == 1_180_416
    assert count(published.decoder[1:].parameters()) == 5_038_650
    assert [count(part.parameters()) for part in published.head] == [192, 4_656]


def test_one_channel_parameter_count():
    assert trained(create("swin_mae.SwinMAE", (224, 224), {})) == 26_629_684


def test_published_shapes(published):
    assert (published.window, published.units) == (7, (14, 14))
    tokens = published.embed(images(1, (224, 224)))
    hidden = published.hide(published.dealings)
    with torch.no_grad():
        encoded = published.encoder(tokens)
        assert tokens.shape == (1, 56, 56, 96)
        assert encoded.shape == (1, 7, 7, 768)
        assert published.decoder(encoded).shape == (1, 56, 56, 96)
        assert published.predict(tokens, hidden).shape == (1, 3, 224, 224)
    assert hidden.sum() == 2352


def test_published_blocks(published):
    blocks = [part for part in published.modules() if isinstance(part, Block)]
    encoder, decoder = blocks[:8], blocks[8:]
    assert [block.attention.num_heads for block in encoder] == [3, 3, 6, 6, 12, 12, 24, 24]
    assert [block.attention.num_heads for block in decoder] == [12, 12, 6, 6, 3, 3]
    assert [block.shift for block in blocks] == [0, 3] * 7
    assert encoder[-1].mask.shape == (1, 49, 49)
    assert len(encoder[-1].mask[0].unique(dim=0)) == 4
    rates = [block.drop.rate for block in encoder]
    assert rates == pytest.approx([0.1 * i / 7 for i in range(8)])
    assert [block.drop.rate for block in decoder] == [rates[i] for i in (4, 5, 2, 3, 0, 1)]
    assert all(part.eps == 1e-6 for part in published.modules() if isinstance(part, nn.LayerNorm))


def test_initial_weights(published):
    for part in published.modules():
        if isinstance(part, nn.Linear):
            bound = math.sqrt(6 / (part.in_features + part.out_features))
            assert 0.99 * bound < part.weight.abs().max() <= bound
            assert part.bias is None or not part.bias.any()
    table = published.encoder[-1][0].attention.relative_position_bias_table
    assert table.shape == (169, 24)
    assert table.std().item() == pytest.approx(0.02, rel=0.1)
    assert published.mask_token.std().item() == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize(
    ("side", "window"), [(64, 2), (96, 3), (128, 4), (160, 5), (192, 6), (224, 7), (256, 8), (512, 8), (384, 6)]
)
def test_window_is_chosen(side, window):
    assert build((side, side), width=24, heads=(1, 1, 1, 1)).window == window


def test_window_fits_unequal_sides():
    model = build((128, 192), width=24, heads=(1, 1, 1, 1))
    assert model.window == 2
    assert model.reconstruct(images(1, (128, 192))).shape == (1, 1, 128, 192)


@pytest.mark.parametrize("window", [1, 3, 7])
def test_window_that_does_not_fit_is_refused(window):
    with pytest.raises(ValueError, match=rf"windows of {window} tokens.*4 does at 128 and 7 at 224"):
        create("swin_mae.SwinMAE", (128, 128), {"window": window})


def test_sizes_that_do_not_fit_are_refused():
    for side in (120, 352, 32, 144):
        with pytest.raises(ValueError, match=r"cannot (cut|deal out) images of"):
            create("swin_mae.SwinMAE", (side, side), {})


@pytest.mark.parametrize(
    "params",
    [
        {"channels": 2},
        {"loss": "l2"},
        {"optimizer": "sgd"},
        {"permutations": 0},
        {"stochastic_depth": 1.0},
        {"unit": 0},
        {"unit": 6},
        {"groups": 1},
        {"groups": 3},
        {"heads": (5, 6)},
    ],
)
def test_values_that_do_not_fit_are_refused(params):
    with pytest.raises(ValueError, match="Swin MAE"):
        build(**params)


@both_sizes
def test_blocks_are_cut_and_joined(size):
    x = torch.arange(2 * math.prod(size) * 3).view(2, *size, 3)
    blocks = split(x, 4)
    assert blocks.shape == (2, *[side // 4 for side in size], 4 ** len(size), 3)
    assert torch.equal(join(blocks, 4), x)
    for index in itertools.product(*[range(side // 4) for side in size]):
        block = x[(slice(None), *[slice(4 * i, 4 * i + 4) for i in index])]
        assert torch.equal(blocks[(slice(None), *index)], block.flatten(1, -2))


@pytest.mark.parametrize(
    ("grid", "window", "shift"),
    [((8, 8), 4, 2), ((14, 21), 7, 3), ((7, 7), 7, 3), ((4, 4, 8), 4, 2), ((4, 2, 6), 2, 1)],
)
def test_attention_mask_equals_that_of_monai(grid, window, shift):
    sizes = (window,) * len(grid), (shift,) * len(grid)
    assert torch.equal(attention_mask(grid, window, shift), compute_mask(grid, *sizes, "cpu"))


def naive_attention(block, x):
    """Shifted-window attention token by token: each asks those of its window, on a grid without wrapping."""
    attention, side = block.attention, block.window
    grid, n, heads = x.shape[:-1], x.ndim - 1, block.attention.num_heads
    query, key, value = attention.qkv(x).unflatten(-1, (3, heads, -1)).unbind(-3)  # (*grid, heads, c)
    output = torch.zeros_like(value)
    tokens = list(itertools.product(*[range(length) for length in grid]))

    def window_of(token):
        return tuple((i - block.shift) // side for i in token)

    for token in tokens:
        others = [other for other in tokens if window_of(other) == window_of(token)]
        logits = []
        for other in others:
            offsets = [i - j + side - 1 for i, j in zip(token, other, strict=True)]
            row = sum(offset * (2 * side - 1) ** (n - 1 - axis) for axis, offset in enumerate(offsets))
            product = (query[token] * key[other]).sum(-1) / math.sqrt(query.shape[-1])
            logits.append(product + attention.relative_position_bias_table[row])
        weights = torch.stack(logits).softmax(0)  # (others, heads)
        output[token] = (weights[..., None] * torch.stack([value[other] for other in others])).sum(0)
    return attention.proj(output.flatten(-2))


@pytest.mark.parametrize(
    ("grid", "window", "shift"),
    [((6, 9), 3, 0), ((6, 9), 3, 1), ((4, 4), 4, 2), ((5, 5), 5, 2), ((4, 2, 4), 2, 1)],
)
def test_shifted_attention_equals_a_naive_loop(grid, window, shift):
    torch.manual_seed(0)
    block = Block(grid, 12, 3, window, shift, 0.0)
    nn.init.normal_(block.attention.relative_position_bias_table)
    x = torch.randn(2, *grid, 12)
    with torch.no_grad():
        expected = torch.stack([naive_attention(block, image) for image in x])
        torch.testing.assert_close(block.attend(x), expected)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    windows=st.one_of(st.tuples(*[st.integers(1, 3)] * 2), st.tuples(*[st.integers(1, 2)] * 3)),
    window=st.integers(2, 4),
    shift=st.integers(0, 3),
    count=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_attention_of_any_grid_equals_a_naive_loop(windows, window, shift, count, seed):
    window = min(window, 6 - len(windows) * (len(windows) > 2))
    grid, shift = tuple(window * number for number in windows), shift % window
    torch.manual_seed(seed)
    block = Block(grid, 8, 2, window, shift, 0.0)
    nn.init.normal_(block.attention.relative_position_bias_table)
    x = torch.randn(count, *grid, 8)
    if shift:
        sizes = (window,) * len(grid), (shift,) * len(grid)
        assert torch.equal(attention_mask(grid, window, shift), compute_mask(grid, *sizes, "cpu"))
    with torch.no_grad():
        expected = naive_attention(block, x[-1])
        torch.testing.assert_close(block.attend(x)[-1], expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    side=st.sampled_from([32, 64]), window=st.sampled_from([2, 4]), count=st.integers(1, 4), seed=st.integers(0, 2**31)
)
def test_loss_and_gradients_equal_those_of_the_plain_network(side, window, count, seed):
    """Masks and stochastic depth too: they are drawn from the same random numbers."""
    model = build((side, side), unit=16, window=window, stochastic_depth=0.3).train()
    plain, x, values = like(model), images(count, (side, side), seed), []
    for network in (model, plain):
        torch.manual_seed(seed)
        loss = network.loss(x)
        loss = loss["loss"] if isinstance(loss, dict) else loss
        loss.backward()
        values.append(loss.detach())
    torch.testing.assert_close(*values, rtol=1e-5, atol=0)
    gradients = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-4, atol=1e-6)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    side=st.sampled_from([32, 64]),
    permutations=st.integers(1, 3),
    count=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
@torch.no_grad()
def test_reconstruction_is_the_mean_of_the_plain_network_over_the_dealt_masks(side, permutations, count, seed):
    model, x = build((side, side), unit=16, permutations=permutations, seed=seed), images(count, (side, side), seed)
    plain, predictions = like(model), []
    for dealing in model.dealings:
        for shown in range(4):
            hidden = (dealing != shown).repeat_interleave(4, 0).repeat_interleave(4, 1).repeat(count, 1, 1)
            prediction = plain(x, hidden).masked_fill(~hidden.flatten(1)[..., None], math.nan)
            predictions.append(joined(prediction, side))
    torch.testing.assert_close(model.reconstruct(x), torch.stack(predictions).nanmean(0), atol=1e-5, rtol=1e-5)


def test_merge_takes_neighbours_together():
    torch.manual_seed(0)
    merge, x = Merge(2, 3), torch.randn(1, 4, 6, 3)
    tokens = torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)
    assert torch.equal(merge(x), merge.reduction(merge.norm(tokens)))


@pytest.mark.parametrize(("size", "unit"), [((128, 128), 16), ((32, 32), 8), ((16, 16, 16), 8)])
def test_masks_hide_three_quarters_in_whole_units(size, unit):
    model = build(size, unit=unit, heads=(2, 4))
    n = math.prod(side // unit for side in size)
    hidden = model.hide(model.deal(torch.rand(50, n)))
    assert hidden.shape == (50, *[side // 4 for side in size])
    units = split(enlarge(hidden, 4)[..., None], unit).flatten(1, len(size)).squeeze(-1)  # (50, units, pixels)
    assert torch.equal(units.all(-1), units.any(-1))
    assert (units.all(-1).sum(1) == 3 * n // 4).all()
    assert len(units[..., 0].unique(dim=0)) > 10


def test_every_unit_is_hidden_alike():
    model = build()
    torch.manual_seed(0)
    frequency = (model.deal(torch.rand(4000, 16)) != 0).float().mean(0)
    assert (frequency - 0.75).abs().max() < 0.03


def test_loss_draws_masks_from_the_global_generator():
    model, x = build(), images(2, (32, 32))
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(model.loss(x)["loss"].item())
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize(("loss", "power"), [("l1", 1), ("squared", 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_loss_is_the_error_of_hidden_pixels(loss, power, channels):
    model, x = build(loss=loss, channels=channels), images(3, (32, 32))
    hidden = model.hide(model.deal(torch.rand(3, 16)))
    prediction = model.predict(model.embed(x), hidden)
    pixels = enlarge(hidden, 4)[:, None].expand_as(prediction)
    value = model.hidden_error(prediction, x, hidden)
    expected = (prediction - x).abs().pow(power)[pixels].mean()
    torch.testing.assert_close(value, expected)

    shown = ~pixels
    assert torch.equal(model.hidden_error(prediction + 5 * shown, x, hidden), value)
    assert torch.equal(model.hidden_error(prediction, x + 5 * shown[:, :1], hidden), value)
    assert model.hidden_error(prediction + 5 * pixels, x, hidden) > value
    (gradient,) = torch.autograd.grad(value, prediction)
    assert not gradient[shown].any()
    assert gradient[pixels].all()


def test_loss_is_that_of_its_parts():
    model, x = build(), images(3, (32, 32))
    torch.manual_seed(4)
    value = model.loss(x)["loss"]
    torch.manual_seed(4)
    hidden = model.hide(model.deal(torch.rand(3, 16)))
    assert torch.equal(value, model.hidden_error(model.predict(model.embed(x), hidden), x, hidden))


@both_sizes
def test_position_table_is_not_used(size):
    model, x = build(size), images(2, size)
    assert not model.positions.requires_grad
    assert model.positions.std() > 0.1
    before = model.reconstruct(x)
    torch.manual_seed(1)
    loss = model.loss(x)["loss"]
    with torch.no_grad():
        model.positions.normal_()
    torch.manual_seed(1)
    assert torch.equal(model.loss(x)["loss"], loss)
    assert torch.equal(model.reconstruct(x), before)


def test_three_channels_are_grey_replicated():
    model, x = build(channels=3), images(2, (32, 32))
    three, one = model.embedding, nn.Conv2d(1, 12, 4, 4)
    with torch.no_grad():
        one.weight.copy_(three.weight.sum(1, keepdim=True))
        one.bias.copy_(three.bias)
        torch.testing.assert_close(model.embed(x), model.embedding_norm(one(x).movedim(1, -1)))
    assert model.reconstruct(x).shape == x.shape


@both_sizes
@pytest.mark.parametrize("permutations", [1, 3])
def test_passes_show_each_unit_once_and_predict_the_rest(size, permutations, monkeypatch):
    model, passes, embeddings = build(size, permutations=permutations), [], []
    predict, embed = model.predict, model.embed
    monkeypatch.setattr(model, "predict", lambda tokens, hidden: passes.append(hidden) or predict(tokens, hidden))
    monkeypatch.setattr(model, "embed", lambda x: embeddings.append(x) or embed(x))
    x = images(2, size)
    with torch.no_grad():
        reconstruction = model.reconstruct(x)
    assert (len(passes), len(embeddings)) == (4 * permutations, 1)
    for first in range(0, len(passes), 4):
        shown = ~torch.cat(passes[first : first + 4])
        assert (shown.sum(0) == 1).all()
        assert (shown.flatten(1).sum(1) == shown[0].numel() // 4).all()
    assert (torch.cat(passes).sum(0) == 3 * permutations).all()

    stacked = torch.stack([predict(embed(x), hidden) for hidden in passes])
    pixels = torch.stack([enlarge(hidden, 4)[:, None].expand_as(x) for hidden in passes])
    expected = stacked.where(pixels, torch.nan).nanmean(0)
    torch.testing.assert_close(reconstruction, expected)


@both_sizes
def test_a_unit_does_not_see_itself(size):
    model, x = build(size, permutations=2), images(1, size)
    changed = x.clone()
    unit = (..., *[slice(8, 16)] * len(size))
    changed[unit] = 1 - changed[unit]
    with torch.no_grad():
        before, after = model.reconstruct(x), model.reconstruct(changed)
    torch.testing.assert_close(after[unit], before[unit], atol=1e-6, rtol=0)
    assert (after - before).abs().max() > 1e-4


def test_reconstruction_leaves_the_global_generator_alone_and_follows_the_seed():
    x = images(2, (32, 32))
    model, same, other = build(), build(), build(seed=1)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = model.reconstruct(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, same.reconstruct(x))
    assert torch.equal(first, model.reconstruct(x))
    other.load_state_dict(model.state_dict())
    assert not torch.allclose(first, other.reconstruct(x))


def test_stochastic_depth_acts_in_training_only():
    model, x = build(stochastic_depth=0.9), images(8, (32, 32))
    tokens, hidden = model.embed(x), model.hide(model.dealings)
    assert torch.equal(model.predict(tokens, hidden), model.predict(tokens, hidden))
    model.train()
    assert not torch.allclose(model.predict(tokens, hidden), model.predict(tokens, hidden))


def test_optimizers():
    adamw = build().optimizers(1e-3)[0]
    (group,) = adamw.param_groups
    assert type(adamw) is torch.optim.AdamW
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-3, (0.9, 0.95), 0.05)
    assert count(group["params"]) == trained(build())
    adam = build(optimizer="adam").optimizers(1e-3)[0]
    assert type(adam) is torch.optim.Adam
    assert adam.param_groups[0]["weight_decay"] == 0


def test_all_trained_parameters_get_gradients_under_half_precision():
    model, x = build().train(), images(2, (32, 32))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(x)["loss"]
        assert model.reconstruct(x).dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)
    assert model.positions.grad is None


@pytest.mark.parametrize("size", [(48, 48), (24, 24, 24)])
def test_the_network_may_work_at_another_size(size):
    side = 32 if len(size) == 2 else 16
    model = build(size, side=side)
    assert (model.working_size, model.window) == ((side,) * len(size), build((side,) * len(size)).window)
    x = images(2, size)
    with torch.no_grad():
        reconstruction = model.reconstruct(x)
        assert reconstruction.shape == x.shape
        inner = build((side,) * len(size))
        inner.load_state_dict(model.state_dict())
        two = len(size) == 2
        options = {"mode": "bilinear" if two else "trilinear", "antialias": two}
        small = nn.functional.interpolate(x, size=inner.size, **options)
        expected = nn.functional.interpolate(inner.reconstruct(small), size=size, **options)
        torch.testing.assert_close(reconstruction, expected)
        torch.manual_seed(1)
        loss = model.loss(x)["loss"]
        torch.manual_seed(1)
        assert loss == inner.loss(small)["loss"]


def test_the_published_size_works_on_images_of_the_study():
    model = create("swin_mae.SwinMAE", (128, 128), {"side": 224, "channels": 3})
    assert count(model.parameters()) == 26_936_916
    assert (model.window, model.units) == (7, (14, 14))
