"""VQ-VAE: the published network, its codebook, its peer, and the terms beyond the paper."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import VQVAE
from torch import nn
from torch.nn import functional as F

from brainuad.models import create
from brainuad.perceptual import PerceptualDistance, spatial_lpips
from conftest import ROOT
from tiny import backward, both_sizes, brains, build

LAYOUTS = {2: torch.channels_last, 3: torch.contiguous_format}


def test_has_the_published_size():
    model = create("vqvae.VQVAE", (128, 128), {})
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 11_842_625
    quantizer = model.network.quantizer.quantizer
    # The published count holds the codebook's 16 x 64 numbers too, which are a parameter without gradient.
    assert sum(p.numel() for p in model.parameters()) == 11_843_649
    assert (quantizer.num_embeddings, quantizer.embedding_dim) == (16, 64)
    assert (quantizer.decay, quantizer.commitment_cost, quantizer.epsilon) == (0.5, 0.25, 1e-5)
    assert model.latent_size == (32, 32)


def test_output_is_unbounded():
    model = build("vqvae.VQVAE", (32, 32)).eval()
    x = brains(1, (32, 32))
    last = [part for part in model.network.decoder.modules() if isinstance(part, nn.ConvTranspose2d)][-1]
    with torch.no_grad():
        low, high = ((last.bias.fill_(value), model.reconstruct(x))[1] for value in (-9.0, 9.0))
    assert low.max() < 0
    assert high.min() > 1
    torch.testing.assert_close(high - low, torch.full_like(x, 18.0))


def test_loss_is_l1_plus_commitment():
    model = build("vqvae.VQVAE", (32, 32)).eval()
    x = brains(2, (32, 32))
    terms = model.loss(x)
    z = model.network.encode(x)
    q = model.network.quantizer.embed(model.encode(x))
    torch.testing.assert_close(terms["commitment"], 0.25 * (q - z).square().mean())
    torch.testing.assert_close(terms["reconstruction"], (model.reconstruct(x) - x).abs().mean())
    torch.testing.assert_close(terms["loss"], terms["commitment"] + terms["reconstruction"])


def test_codebook_moves_in_train_mode_only():
    model = build("vqvae.VQVAE", (32, 32))
    x = brains(2, (32, 32))
    quantizer = model.network.quantizer.quantizer
    before = quantizer.embedding.weight.clone()
    model.eval()
    model.loss(x)
    model.train()
    model.encode(x)
    assert torch.equal(quantizer.embedding.weight, before)
    z = model.network.encode(x).permute(0, 2, 3, 1).reshape(-1, before.shape[1])
    chosen = F.one_hot(model.encode(x).flatten(), model.codes).float()
    model.loss(x)
    counts, sums = 0.5 * chosen.sum(0), 0.5 * before + 0.5 * chosen.T @ z
    total = counts.sum()
    weights = (counts + 1e-5) / (total + model.codes * 1e-5) * total
    torch.testing.assert_close(quantizer.embedding.weight, sums / weights[:, None], rtol=1e-4, atol=1e-5)


@both_sizes
def test_codes_decode_to_the_reconstruction(size):
    model = build("vqvae.VQVAE", size).eval()
    x = brains(2, size)
    indices = model.encode(x)
    assert indices.shape == (2, *model.latent_size)
    torch.testing.assert_close(model.decode(indices), model.reconstruct(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(130, 128), (16, 16, 18)])
def test_refuses_sides_that_it_would_crop(size):
    with pytest.raises(ValueError, match="divisible by 4"):
        create("vqvae.VQVAE", size, {})


def peer(generative, dims):
    """monai-generative's network in the size of the tiny preset."""
    return generative.VQVAE(
        spatial_dims=dims,
        in_channels=1,
        out_channels=1,
        num_channels=(8, 8),
        num_res_layers=1,
        num_res_channels=(8, 8),
        downsample_parameters=((2, 4, 1, 1),) * 2,
        upsample_parameters=((2, 4, 1, 1, 0),) * 2,
        num_embeddings=8,
        embedding_dim=4,
    )


@both_sizes
def test_equals_its_peer(generative, size):
    """Training: the terms of two passes, and the codebook that they move."""
    model = build("vqvae.VQVAE", size).train()
    theirs = peer(generative, len(size)).train()
    model.network.load_state_dict(theirs.state_dict())
    x = brains(2, size)
    for _ in range(2):
        reconstruction, commitment = theirs(x)
        terms = model.loss(x)
        assert torch.equal(terms["commitment"], commitment)
        assert torch.equal(terms["reconstruction"], (reconstruction - x).abs().mean())
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), theirs.state_dict().values(), strict=True)
    )


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    size=st.one_of(st.tuples(*[st.integers(2, 10)] * 2), st.tuples(*[st.integers(2, 4)] * 3)),
    count=st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
def test_steps_of_any_shape_equal_those_of_monai(size, count, seed):
    """In the memory layout and with the optimiser that training takes, against MONAI's network and plain Adam."""
    size = tuple(4 * side for side in size)
    model = build("vqvae.VQVAE", size).train()
    theirs = copy.deepcopy(model.network)
    assert type(theirs) is VQVAE
    optimizer = torch.optim.Adam(theirs.parameters(), 1e-3)
    model.to(memory_format=LAYOUTS[len(size)])
    optimizers = model.optimizers(1e-3)
    for step in range(3):
        x = brains(count, size, seed + step)
        terms = model.step(x.contiguous(memory_format=LAYOUTS[len(size)]), optimizers, backward)
        reconstruction, commitment = theirs(x)
        loss = (reconstruction - x).abs().mean() + commitment
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(terms["loss"], loss.detach(), rtol=1e-5, atol=0)
    codebooks = (network.quantizer.quantizer.embedding.weight for network in (model.network, theirs))
    torch.testing.assert_close(*codebooks, rtol=1e-4, atol=1e-6)


@both_sizes
def test_reconstruction_and_codes_equal_the_peer(generative, size):
    theirs = peer(generative, len(size)).eval()
    model = build("vqvae.VQVAE", size).eval()
    model.adopt(theirs.state_dict())
    x = brains(3, size)
    with torch.no_grad():
        assert torch.equal(model.reconstruct(x), theirs(x)[0])
        assert torch.equal(model.encode(x), theirs.index_quantize(x))


VQGAN = {"perceptual_term": 0.2, "adversarial_term": 0.3, "discriminator_channels": 4, "discriminator_levels": 1}
TRUNK = ROOT / "resources/lpips/alexnet_features.safetensors"


def vqgan(size, **changes):
    """A tiny model with all terms, and its distance."""
    torch.manual_seed(0)
    tiny = {"channels": (8, 8), "residual_units": 1, "codes": 8, "code_channels": 4}
    model = create("vqvae.VQVAE", size, {**tiny, **VQGAN, **changes})
    model.perceptual = PerceptualDistance(TRUNK, smoothing=0).mean
    return model


def test_terms_beyond_the_paper_are_off_by_default():
    model = build("vqvae.VQVAE", (32, 32))
    assert model.discriminator is None
    assert not model.needs_perceptual
    assert set(model.loss(brains(1, (32, 32)))) == {"loss", "reconstruction", "commitment"}


def axial_slices(image):
    """Slices (1, 3, x, y) of images (b, 1, x, y) or of volumes (b, 1, x, y, z)."""
    volumes = image if image.ndim == 5 else image[..., None]
    return [volume[0, :, :, z].expand(1, 3, -1, -1) for volume in volumes for z in range(volume.shape[-1])]


@pytest.mark.parametrize("size", [(32, 32), (32, 32, 8)], ids=["2d", "3d"])
def test_terms_equal_their_formulas(size):
    model = vqgan(size).eval()
    x = brains(2, size)
    with torch.no_grad():
        terms, reconstruction = model.loss(x), model.reconstruct(x)
        network = spatial_lpips(TRUNK)
        pairs = zip(*(axial_slices(image) for image in (x, reconstruction)), strict=True)
        distance = torch.stack([network(a, b, normalize=True) for a, b in pairs]).mean()
        torch.testing.assert_close(terms["perceptual"], distance, rtol=1e-4, atol=1e-6)
        judge = PatchAdversarialLoss(criterion="least_squares")
        torch.testing.assert_close(terms["adversarial"], judge(model.discriminator(reconstruction)[-1], True, False))
        whole = terms["reconstruction"] + terms["commitment"] + 0.2 * terms["perceptual"] + 0.3 * terms["adversarial"]
        torch.testing.assert_close(terms["loss"], whole)
        false, real = (judge(model.discriminator(image)[-1], image is x, True) for image in (reconstruction, x))
        torch.testing.assert_close(model.discriminator_loss(x, reconstruction), (false + real) / 2)


def untouched(term, parameters):
    """Whether no parameter has a part in a term."""
    return all(g is None for g in torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True))


def test_each_term_reaches_its_own_part():
    model, x = vqgan((32, 32)), brains(2, (32, 32))
    network = [p for p in model.network.parameters() if p.requires_grad]
    discriminator = list(model.discriminator.parameters())
    terms = model.loss(x)
    for name in ("reconstruction", "perceptual", "adversarial"):
        gradients = torch.autograd.grad(terms[name], network, retain_graph=True)
        assert all(gradient.abs().max() > 0 for gradient in gradients), name
    # Commitment ends at the latent image: no part of the decoder feels it.
    decoder = list(model.network.decoder.parameters())
    assert all(
        g is None for g in torch.autograd.grad(terms["commitment"], decoder, retain_graph=True, allow_unused=True)
    )
    own = model.discriminator_loss(x, model.reconstruct(x))
    assert all(g is None for g in torch.autograd.grad(own, network, retain_graph=True, allow_unused=True))
    assert all(gradient.abs().max() > 0 for gradient in torch.autograd.grad(own, discriminator))


def test_step_updates_the_autoencoder_then_the_discriminator():
    model, x = vqgan((32, 32)).train(), brains(4, (32, 32))
    naive = vqgan((32, 32)).train()
    optimizers = model.optimizers(1e-3)
    assert [group["lr"] for optimizer in optimizers for group in optimizer.param_groups] == [1e-3, 5e-3]
    terms = model.step(x, optimizers, backward)
    assert {"perceptual", "adversarial", "discriminator"} <= set(terms)
    assert all(torch.isfinite(value) and not value.requires_grad for value in terms.values())

    first = torch.optim.Adam([p for p in naive.network.parameters() if p.requires_grad], 1e-3)
    second = torch.optim.Adam(naive.discriminator.parameters(), 5e-3)
    reconstruction, commitment = naive(x)
    naive.generator_loss(x, reconstruction, commitment)["loss"].backward()
    first.step()
    second.zero_grad()
    (0.3 * naive.discriminator_loss(x, reconstruction)).backward()
    second.step()
    for (name, one), other in zip(model.state_dict().items(), naive.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5, msg=name)


def test_a_distance_that_is_missing_is_named():
    model = create("vqvae.VQVAE", (32, 32), {"channels": (8, 8), "perceptual_term": 0.1})
    with pytest.raises(ValueError, match="set its `perceptual` to"):
        model.loss(brains(2, (32, 32)))


def test_discriminator_and_terms_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="leaves nothing of images of"):
        vqgan((32, 32), discriminator_levels=4)
    with pytest.raises(ValueError, match="0 or more"):
        vqgan((32, 32), perceptual_term=-1)
    smallest = vqgan((48, 48), discriminator_levels=4)
    assert smallest.discriminator(brains(2, (48, 48)))[-1].shape == (2, 1, 1, 1)
