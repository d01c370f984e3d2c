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
from scipy import ndimage, stats
from skimage import exposure
from torch import nn
from torch.nn import functional as F

import brainuad.models
from brainuad.models import Detector, available, create, load, save
from brainuad.models.floors import VoxelZ
from tiny import SIZES, backward, both_sizes, brains, build, trainable

every_model = pytest.mark.parametrize("class_name", available())


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
    smooth = create("floors.VoxelZ", size, {"smoothing": 1.5}).eval()
    smooth.fit(iter([images]))
    found = smooth.score(x, smooth.reconstruct(x), None).numpy()[:, 0]
    expected = [ndimage.gaussian_filter(image, 1.5) for image in maps["VoxelZ"][:, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    np.testing.assert_array_equal(maps["Intensity"], x.numpy())
    assert not models["Intensity"].reconstruct(x).any()


@both_sizes
def test_blur_equals_scipy(size):
    x = brains(2, size)
    for sigma in (0.7, 2.0):
        model = create("floors.AbsBlur", size, {"sigma": sigma})
        blurred = [ndimage.gaussian_filter(image.astype(np.float64), sigma) for image in x[:, 0].numpy()]
        reconstruction = model.reconstruct(x)
        np.testing.assert_allclose(reconstruction[:, 0], blurred, atol=1e-6)
        anomaly = model.score(x, reconstruction, torch.full_like(x, 9.0))
        np.testing.assert_allclose(anomaly[:, 0], abs(x[:, 0].numpy() - blurred), atol=1e-6)
        torch.testing.assert_close(model.loss(x)["loss"], anomaly.mean())


@both_sizes
def test_flat_is_the_mean_of_each_brain(size):
    model, x = build("floors.Flat", size), torch.cat([brains(2, size), torch.zeros(1, 1, *size)])
    reconstruction = model.reconstruct(x)
    for image, flat in zip(x, reconstruction, strict=True):
        values = flat[image > 0]
        np.testing.assert_allclose(values, image[image > 0].double().mean(), rtol=1e-5)
        assert not flat[image == 0].any()
    assert torch.equal(model.score(x, reconstruction, torch.full_like(x, 9.0)), (x - reconstruction).abs())


@both_sizes
def test_equalised_intensity_is_a_rank(size):
    """Exactly scipy's rank and, but for the width of its bins, scikit-image's histogram equalisation."""
    model = build("floors.EqualisedIntensity", size)
    x = torch.cat([(10 * brains(2, size)).round() / 10, brains(1, size), torch.zeros(1, 1, *size)])  # ties, then none
    anomaly = model.score(x, model.reconstruct(x), torch.full_like(x, 9.0))
    assert not model.reconstruct(x).any()
    for image, equalised in zip(x[:3, 0].numpy(), anomaly[:3, 0].numpy(), strict=True):
        brain = image > 0
        ranks = stats.rankdata(image[brain], method="max") / brain.sum()
        np.testing.assert_allclose(equalised[brain], ranks, rtol=1e-6)
        assert not equalised[~brain].any()
        assert equalised.max() == 1
    peer = exposure.equalize_hist(image, nbins=65536, mask=brain)
    np.testing.assert_allclose(equalised[brain], peer[brain], atol=2 / brain.sum())
    assert not anomaly[3].any()
    assert torch.equal(model.score(0.5 * x, x, x), anomaly)  # a rank knows no scale


def test_floor_must_be_positive_and_images_must_come():
    with pytest.raises(ValueError, match="sigma above 0"):
        create("floors.AbsBlur", (32, 32), {"sigma": 0})
    with pytest.raises(ValueError, match="above 0"):
        VoxelZ((32, 32), floor=0)
    with pytest.raises(ValueError, match="smoothing of 0 or more"):
        VoxelZ((32, 32), smoothing=-1)
    with pytest.raises(ValueError, match="no training images"):
        create("floors.VoxelMean", (32, 32), {}).fit([])
