"""One contract over every model class, tiny, in 2-D and 3-D; then what is particular to each."""

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import brainuad.models
from brainuad.models import Detector, available, create, load, save
from brainuad.models.floors import VoxelZ

SIZES = [(32, 32), (16, 16, 16)]
every_model = pytest.mark.parametrize("class_name", available())
both_sizes = pytest.mark.parametrize("size", SIZES, ids=["2d", "3d"])


def brains(count, size, seed=0):
    """Bright ellipsoids of random place on black, smooth enough for a tiny model to learn in a few steps."""
    source = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, side) for side in size], indexing="ij")
    images = []
    for _ in range(count):
        centre = source.uniform(-0.2, 0.2, len(size))
        distance = sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True))
        images.append(np.clip(0.9 - distance, 0, 1) * (distance < 0.6))
    return torch.tensor(np.array(images)[:, None], dtype=torch.float32)


def build(class_name, size):
    """A model in its tiny preset, on a tiny upstream if it needs one."""
    torch.manual_seed(0)
    module, name = class_name.split(".")
    cls = getattr(importlib.import_module(f"brainuad.models.{module}"), name)
    upstream = build(cls.requires, size) if cls.requires else None
    model = create(class_name, size, cls.tiny, upstream)
    if not trainable(model):
        model.fit([brains(4, size, seed).numpy() for seed in range(2)])
    return model


def trainable(model):
    return any(p.requires_grad for p in model.parameters())


def backward(loss, **options):
    loss.backward(**options)


def test_every_detector_is_available():
    found = []
    for module in pkgutil.iter_modules(brainuad.models.__path__):
        content = importlib.import_module(f"brainuad.models.{module.name}")
        for name, value in inspect.getmembers(content, inspect.isclass):
            own = value.__module__ == content.__name__
            if own and issubclass(value, Detector) and value is not Detector and not name.startswith("_"):
                found.append(f"{module.name}.{name}")
    assert sorted(found) == sorted(available())


@every_model
@both_sizes
def test_loss_falls(class_name, size):
    model = build(class_name, size)
    x = brains(4, size)
    if not trainable(model):
        assert set(model.loss(x)) == {"loss"}
        return
    optimizers, history = model.train().optimizers(1e-3), []
    for seed in range(12):
        torch.manual_seed(seed % 2)
        terms = model.step(x, optimizers, backward)
        assert all(value.ndim == 0 and torch.isfinite(value) for value in terms.values())
        history.append(terms["loss"].item())
    assert np.mean(history[-4:]) < np.mean(history[:2])


@every_model
@both_sizes
def test_reconstruction_keeps_shape_and_repeats(class_name, size):
    model = build(class_name, size).eval()
    x = brains(3, size)
    with torch.no_grad():
        first, second = model.reconstruct(x), model.reconstruct(x)
        alone = model.reconstruct(x[1:2])
    assert first.shape == x.shape
    assert torch.equal(first, second)
    torch.testing.assert_close(alone, first[1:2], atol=1e-4, rtol=1e-4)


@every_model
@both_sizes
def test_score_has_shape_and_sign(class_name, size):
    model = build(class_name, size).eval()
    x = brains(3, size)
    with torch.no_grad():
        reconstruction = model.reconstruct(x).clamp(0, 1)
        anomaly = model.score(x, reconstruction, torch.ones_like(x))
    assert anomaly.shape == x.shape
    assert ((anomaly >= 0) & anomaly.isfinite()).all()


@every_model
@both_sizes
def test_saved_equals_loaded(class_name, size, tmp_path):
    model = build(class_name, size)
    if trainable(model):
        model.train()
        model.step(brains(4, size), model.optimizers(1e-3), backward)
    model.eval()
    save(model, tmp_path / "model.safetensors", tmp_path / "model.json", {"seed": 7})
    loaded = load(tmp_path / "model.safetensors")
    assert not loaded.training
    assert loaded.recipe == model.recipe
    assert json.loads((tmp_path / "model.json").read_text())["metadata"] == {"seed": 7}
    x = brains(2, size, seed=5)
    with torch.no_grad():
        assert torch.equal(loaded.reconstruct(x), model.reconstruct(x))
        ones = torch.ones_like(x)
        assert torch.equal(loaded.score(x, 0 * x, ones), model.score(x, 0 * x, ones))


@every_model
def test_upstream_is_frozen(class_name):
    model = build(class_name, SIZES[0])
    if model.upstream is None:
        return
    before = {name: value.clone() for name, value in model.upstream.state_dict().items()}
    model.train()
    model.step(brains(4, SIZES[0]), model.optimizers(1e-2), backward)
    assert model.training
    assert not model.upstream.training
    assert all(torch.equal(before[name], value) for name, value in model.upstream.state_dict().items())


def test_package_does_not_import_monai():
    code = "import sys, brainuad.models; sys.exit('monai' in sys.modules)"
    path = str(Path(brainuad.models.__file__).parents[2])
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, check=False).returncode == 0


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"did you mean 'vqvae\.VQVAE'"):
        create("vqvae.VQVAEE", (32, 32), {})
    with pytest.raises(ValueError, match="did you mean 'channels'"):
        create("vqvae.VQVAE", (32, 32), {"chanels": (8, 8)})
    with pytest.raises(ValueError, match="it takes none"):
        create("floors.Intensity", (32, 32), {"size_mm": 1})
    with pytest.raises(ValueError, match="builds on no other model"):
        create("vqvae.VQVAE", (32, 32), {}, build("floors.Intensity", (32, 32)))
    with pytest.raises(ValueError, match="have 1 axes"):
        create("floors.Intensity", (32,), {})
    with pytest.raises(ValueError, match="beside it"):
        load(tmp_path / "model.safetensors")


def test_weights_of_another_shape_are_refused(tmp_path):
    save(build("floors.VoxelMean", (32, 32)), tmp_path / "model.safetensors", tmp_path / "model.json", {})
    description = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**description, "size": [16, 16]}))
    with pytest.raises(ValueError, match="does not fit"):
        load(tmp_path / "model.safetensors")


class Pair(Detector):
    """Two objectives on one graph, as an adversarial autoencoder has them."""

    tiny: ClassVar[dict] = {}

    def __init__(self, size, upstream):
        super().__init__(size, upstream)
        self.first = nn.Conv2d(1, 2, 1)
        self.second = nn.Conv2d(2, 1, 1)

    def optimizers(self, lr):
        return [torch.optim.SGD(part.parameters(), lr) for part in (self.first, self.second)]

    def objectives(self, x):
        z = self.first(x)
        output = self.second(z)
        return F.mse_loss(output, x) + z.square().mean(), output.square().mean()

    def step(self, x, optimizers, backward):
        one, two = self.objectives(x)
        for optimizer in optimizers:
            optimizer.zero_grad()
        backward(one, inputs=list(self.first.parameters()), retain_graph=True)
        backward(two, inputs=list(self.second.parameters()))
        for optimizer in optimizers:
            optimizer.step()
        return {"loss": one, "other": two}


def test_two_objectives_get_the_gradients_of_autograd():
    torch.manual_seed(0)
    model = Pair((32, 32), build("floors.VoxelMean", (32, 32)))
    x = brains(2, (32, 32))
    one, two = model.objectives(x)
    expected = [
        *torch.autograd.grad(one, list(model.first.parameters()), retain_graph=True),
        *torch.autograd.grad(two, list(model.second.parameters())),
    ]
    model.step(x, model.optimizers(1e-2), backward)
    parameters = [*model.first.parameters(), *model.second.parameters()]
    assert all(torch.equal(p.grad, g) for p, g in zip(parameters, expected, strict=True))
    assert any(name.startswith("upstream.") for name in model.state_dict())
    assert model.train().training
    assert not model.upstream.training


def test_vqvae_has_the_published_size():
    model = create("vqvae.VQVAE", (128, 128), {})
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 11_842_625
    quantizer = model.network.quantizer.quantizer
    # The published count holds the codebook's 16 x 64 numbers too, which are a parameter without gradient.
    assert sum(p.numel() for p in model.parameters()) == 11_843_649
    assert (quantizer.num_embeddings, quantizer.embedding_dim) == (16, 64)
    assert (quantizer.decay, quantizer.commitment_cost, quantizer.epsilon) == (0.5, 0.25, 1e-5)
    assert model.latent_size == (32, 32)


def test_vqvae_output_is_unbounded():
    model = build("vqvae.VQVAE", (32, 32)).eval()
    x = brains(1, (32, 32))
    last = [part for part in model.network.decoder.modules() if isinstance(part, nn.ConvTranspose2d)][-1]
    with torch.no_grad():
        low, high = ((last.bias.fill_(value), model.reconstruct(x))[1] for value in (-9.0, 9.0))
    assert low.max() < 0
    assert high.min() > 1
    torch.testing.assert_close(high - low, torch.full_like(x, 18.0))


def test_vqvae_loss_is_l1_plus_commitment():
    model = build("vqvae.VQVAE", (32, 32)).eval()
    x = brains(2, (32, 32))
    terms = model.loss(x)
    z = model.network.encode(x)
    q = model.network.quantizer.embed(model.encode(x))
    torch.testing.assert_close(terms["commitment"], 0.25 * (q - z).square().mean())
    torch.testing.assert_close(terms["reconstruction"], (model.reconstruct(x) - x).abs().mean())
    torch.testing.assert_close(terms["loss"], terms["commitment"] + terms["reconstruction"])


def test_vqvae_codebook_moves_in_train_mode_only():
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
def test_vqvae_codes_decode_to_the_reconstruction(size):
    model = build("vqvae.VQVAE", size).eval()
    x = brains(2, size)
    indices = model.encode(x)
    assert indices.shape == (2, *model.latent_size)
    torch.testing.assert_close(model.decode(indices), model.reconstruct(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(130, 128), (16, 16, 18)])
def test_vqvae_refuses_sides_that_it_would_crop(size):
    with pytest.raises(ValueError, match="divisible by 4"):
        create("vqvae.VQVAE", size, {})


@pytest.fixture
def peer(monkeypatch):
    """monai-generative's VQ-VAE; it looks for one name where MONAI no longer keeps it."""
    import monai.config
    from monai.utils import IgniteInfo

    monkeypatch.setattr(monai.config, "IgniteInfo", IgniteInfo, raising=False)
    return importlib.import_module("generative.networks.nets").VQVAE


@both_sizes
def test_vqvae_equals_its_peer(peer, size):
    model = build("vqvae.VQVAE", size).train()
    theirs = peer(
        spatial_dims=len(size),
        in_channels=1,
        out_channels=1,
        num_channels=(8, 8),
        num_res_layers=1,
        num_res_channels=(8, 8),
        downsample_parameters=((2, 4, 1, 1),) * 2,
        upsample_parameters=((2, 4, 1, 1, 0),) * 2,
        num_embeddings=8,
        embedding_dim=4,
    ).train()
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


@both_sizes
def test_floors_equal_their_formulas(size):
    images = brains(11, size).numpy() + np.float32(100)  # a large mean is where a naive variance cancels
    batches = [images[:4], images[4:5], images[5:]]
    exact = images.astype(np.float64)
    mean, deviation = exact.mean(0, keepdims=True), exact.std(0, keepdims=True)
    x = brains(2, size, seed=3)
    models = {name: create(f"floors.{name}", size, {}).eval() for name in ("VoxelMean", "VoxelZ", "Intensity")}
    maps = {}
    for name, model in models.items():
        model.fit(batches)
        reconstruction = model.reconstruct(x)
        maps[name] = model.score(x, reconstruction, torch.full_like(x, 9.0)).numpy()
    np.testing.assert_allclose(models["VoxelZ"].deviation.numpy(), deviation, atol=1e-6)
    np.testing.assert_allclose(models["VoxelMean"].reconstruct(x)[1:].numpy(), mean, rtol=1e-7)
    np.testing.assert_allclose(maps["VoxelMean"], abs(x.numpy() - mean), rtol=1e-5)
    np.testing.assert_allclose(maps["VoxelZ"], abs(x.numpy() - mean) / (deviation + 0.01), rtol=1e-4)
    np.testing.assert_array_equal(maps["Intensity"], x.numpy())
    assert not models["Intensity"].reconstruct(x).any()


def test_floor_must_be_positive_and_images_must_come():
    with pytest.raises(ValueError, match="above 0"):
        VoxelZ((32, 32), floor=0)
    with pytest.raises(ValueError, match="no training images"):
        create("floors.VoxelMean", (32, 32), {}).fit([])
