import functools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.exposure import equalize_adapthist

from brainuad import gpus, scoring
from brainuad.devices import accelerate
from brainuad.models import create, save
from brainuad.models.detector import Detector
from brainuad.perceptual import PerceptualDistance, spatial_lpips
from brainuad.sample_set import SampleSet, SampleWriter

TRUNK = Path(__file__).parents[1] / "resources/lpips/alexnet_features.safetensors"
SETTINGS = {"batch_size": 2, "smoothing": 2.0, "device": "cpu"}
perceptual_distance = functools.cache(PerceptualDistance)
SPLITS = ("train", "test", "validation", "train", "test", "test")


class Brightened(Detector):
    """Reconstructs every image a third brighter, beyond 1; its map is the default."""

    def reconstruct(self, x):
        assert not self.training
        return x * 4 / 3 - 0.1


class Signed(Brightened):
    def score(self, x, reconstruction, perceptual):
        assert reconstruction.min() >= 0
        assert reconstruction.max() <= 1
        return (x - reconstruction + 1).double()


class Broken(Brightened):
    def reconstruct(self, x):
        return x / 0


@pytest.fixture(params=[(32, 36), (32, 32, 3)], ids=["2d", "3d"])
def samples(request, tmp_path):
    return written(tmp_path / "samples", request.param)


def written(folder, size, splits=SPLITS):
    generator = np.random.default_rng(0)
    writer = SampleWriter(folder, len(splits), size)
    for index, split in enumerate(splits):
        image = generator.random(size, dtype=np.float32)
        row = {"scan": f"sub-{index}", "subject": str(index), "split": split, "position": 3.0}
        writer.add(image, image > 0.1, image < 0, row)
    writer.close()
    return folder


def scored(monkeypatch, model, samples, folder, settings=SETTINGS):
    monkeypatch.setattr(scoring, "load", lambda path: model)
    monkeypatch.setattr(scoring, "PerceptualDistance", perceptual_distance)
    scoring.score(Path("model.safetensors"), samples, TRUNK, folder, settings)
    return {name: np.load(folder / f"{name}.npy") for name in scoring.ARRAYS}


def test_validation_and_test_rows_are_scored(monkeypatch, samples, tmp_path):
    sample_set = SampleSet(samples)
    arrays = scored(monkeypatch, Brightened(sample_set.size), samples, tmp_path / "score")
    table = pd.read_csv(tmp_path / "score/table.tsv", sep="\t")
    assert table["sample"].tolist() == [1, 2, 4, 5]
    assert table["split"].tolist() == ["test", "validation", "test", "test"]
    assert table.columns.tolist() == sample_set.table.columns.tolist()
    for array in arrays.values():
        assert array.shape == (4, 1, *sample_set.size)
        assert array.dtype == np.float32


def test_arrays_are_the_parts_of_the_map(monkeypatch, samples, tmp_path):
    sample_set = SampleSet(samples)
    x = sample_set.images[[1, 2, 4, 5]]
    arrays = scored(monkeypatch, Brightened(sample_set.size), samples, tmp_path / "score")
    expected = np.clip(x * np.float32(4) / 3 - np.float32(0.1), 0, 1)
    np.testing.assert_allclose(arrays["reconstruction"], expected, atol=1e-6)
    assert arrays["reconstruction"].max() == 1
    assert arrays["reconstruction"].min() == 0
    np.testing.assert_array_equal(arrays["residual"], np.abs(x - arrays["reconstruction"]))
    np.testing.assert_allclose(arrays["map"], arrays["residual"] * arrays["perceptual"], atol=1e-7)
    pairs = (torch.from_numpy(array) for array in (x, arrays["reconstruction"]))
    np.testing.assert_allclose(arrays["perceptual"], perceptual_distance(TRUNK, 2.0)(*pairs).numpy(), atol=1e-6)
    assert arrays["perceptual"].max() > 1e-3


def published(x, y):
    """RA's map of an image (1, *size) and its reconstruction, slice by slice."""
    if x.ndim == 4:
        slices = [parts_of(x[0, ..., z], y[0, ..., z]) for z in range(x.shape[-1])]
        parts = [np.stack(part, -1) for part in zip(*slices, strict=True)]
    else:
        parts = parts_of(x[0], y[0])
    return (parts[0] * gaussian_filter(parts[1], 2.0) * gaussian_filter(parts[2], 2.0))[None]


def parts_of(x, y):
    """Residual of the equalised slices, distance of the slices, and of the equalised ones."""
    equal = [equalize_adapthist(image) for image in (x, y)]
    return abs(equal[0] - equal[1]), lpips_of(x, y), lpips_of(*equal)


def lpips_of(a, b):
    pair = (torch.from_numpy(np.ascontiguousarray(image))[None, None] * 2 - 1 for image in (a, b))
    return package()(*pair)[0, 0].numpy()


@functools.cache
def package():
    return spatial_lpips(TRUNK)


def test_the_equalised_map_is_that_of_the_published_code(monkeypatch, samples, tmp_path):
    """Image by image, with scikit-image, the package lpips and SciPy."""
    sample_set = SampleSet(samples)
    settings = {**SETTINGS, "map": "equalised"}
    arrays = scored(monkeypatch, Brightened(sample_set.size), samples, tmp_path / "score", settings)
    for x, y, found in zip(sample_set.images[[1, 2, 4, 5]], arrays["reconstruction"], arrays["map"], strict=True):
        expected = published(x, y)
        np.testing.assert_allclose(found, expected, atol=min(1e-6, 1e-5 * expected.max()), rtol=0)
        assert found.max() > 0
    signed = scored(monkeypatch, Signed(sample_set.size), samples, tmp_path / "own", settings)
    np.testing.assert_allclose(signed["map"], sample_set.images[[1, 2, 4, 5]] - signed["reconstruction"] + 1)


class Given(Detector):
    """A model whose reconstruction is given."""

    def __init__(self, reconstruction):
        super().__init__(reconstruction.shape[2:])
        self.reconstruction = reconstruction

    def reconstruct(self, x):
        return self.reconstruction


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    size=st.one_of(st.tuples(*[st.integers(31, 80)] * 2), st.tuples(*[st.integers(31, 40)] * 2, st.integers(1, 3))),
    count=st.integers(1, 5),
    seed=st.integers(0, 2**31),
    blur=st.sampled_from([0, 2, 4]),
    air=st.sampled_from([0.0, 0.5]),
)
def test_maps_of_a_batch_are_those_of_its_images(size, count, seed, blur, air):
    """Both kinds, with scikit-image, the package lpips and SciPy."""
    images = np.random.default_rng(seed).random((2, count, 1, *size))
    images = gaussian_filter(images, (0, 0, 0, blur, blur, *[0] * (len(size) - 2)))
    images = (images - images.min()) / np.ptp(images)
    images = np.where(images < np.quantile(images, air), 0, images).astype(np.float32)
    model, distance = Given(torch.from_numpy(images[1])), perceptual_distance(TRUNK, 2.0)
    x = torch.from_numpy(images[0])
    found = scoring.components(model, distance, x, "equalised")["map"].numpy()
    expected = np.stack([published(*pair) for pair in zip(*images, strict=True)])
    np.testing.assert_allclose(found, expected, atol=min(1e-6, 1e-5 * expected.max()), rtol=0)


def test_batch_size_changes_nothing(monkeypatch, samples, tmp_path):
    model = Brightened(SampleSet(samples).size)
    first = scored(monkeypatch, model, samples, tmp_path / "a")
    second = scored(monkeypatch, model, samples, tmp_path / "b", {**SETTINGS, "batch_size": 3})
    for name in scoring.ARRAYS:
        np.testing.assert_allclose(first[name], second[name], atol=1e-6)


def test_models_may_make_their_own_map(monkeypatch, tmp_path):
    samples = written(tmp_path / "samples", (32, 32))
    arrays = scored(monkeypatch, Signed((32, 32)), samples, tmp_path / "score")
    np.testing.assert_allclose(arrays["map"], SampleSet(samples).images[[1, 2, 4, 5]] - arrays["reconstruction"] + 1)


def test_a_saved_model_is_scored(tmp_path):
    samples = written(tmp_path / "samples", (32, 32))
    model = create("floors.VoxelMean", (32, 32), {})
    model.fit([SampleSet(samples).images[:]])
    save(model, tmp_path / "model.safetensors", tmp_path / "model.json", {})
    scoring.score(tmp_path / "model.safetensors", samples, TRUNK, tmp_path / "score", SETTINGS)
    reconstruction = np.load(tmp_path / "score/reconstruction.npy")
    np.testing.assert_array_equal(reconstruction[0], reconstruction[3])
    assert json.loads((tmp_path / "model.json").read_text())["class"] == "floors.VoxelMean"


def test_what_is_not_whole_has_no_name(monkeypatch, tmp_path):
    samples = written(tmp_path / "samples", (32, 32))
    with pytest.raises(ValueError, match=r"The reconstruction of model\.safetensors on .*samples is not finite"):
        scored(monkeypatch, Broken((32, 32)), samples, tmp_path / "score")
    names = [path.name for path in (tmp_path / "score").iterdir()]
    assert names
    assert all(name.endswith(".partial") for name in names)
    scored(monkeypatch, Brightened((32, 32)), samples, tmp_path / "score")
    names = {path.name for path in (tmp_path / "score").iterdir()}
    assert names == {"reconstruction.npy", "residual.npy", "perceptual.npy", "map.npy", "table.tsv", "cost.json"}


def test_a_set_without_rows_to_score_is_refused(monkeypatch, tmp_path):
    samples = written(tmp_path / "samples", (32, 32), splits=("train", "train"))
    with pytest.raises(ValueError, match="no validation or test samples"):
        scored(monkeypatch, Brightened((32, 32)), samples, tmp_path / "score")


def test_device_is_chosen_by_name():
    assert scoring.device_of("cpu").type == "cpu"
    assert scoring.device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named():
    with pytest.raises(ValueError, match="no GPU that torch can use"):
        scoring.device_of("cuda")


@pytest.fixture
def unusable(monkeypatch, tmp_path):
    """A job of Slurm with GPU 3, which torch cannot use."""
    for name in ("CUDA_VISIBLE_DEVICES", *gpus.GIVEN, gpus.FEIGNED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "absent")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    return monkeypatch


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize("choose", [scoring.device_of, lambda name: accelerate({"device": name})])
def test_the_cpu_takes_the_place_of_no_gpu_that_was_given(unusable, choose, device):
    unusable.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(ValueError, match=r"GPU 3 was given to this job, but .* too old for CUDA 12\.8.*nvidia-smi"):
        choose(device)
    unusable.setattr(torch.version, "cuda", None)
    with pytest.raises(ValueError, match="is built without CUDA: install a build with it"):
        choose(device)


def test_on_any_machine_with_a_driver_a_gpu_that_was_given_is_insisted_on(unusable, tmp_path, capsys):
    unusable.delenv("SLURM_JOB_ID")
    assert gpus.automatic_device() == "cpu"  # as the launcher local names GPUs where there are none
    assert "computes on the CPU" in capsys.readouterr().out
    gpus.DRIVER.mkdir()
    with pytest.raises(ValueError, match="GPU 3 was given"):
        gpus.automatic_device()


def test_the_cpu_is_used_where_it_is_asked_for_or_no_gpu_was_given(unusable):
    assert gpus.automatic_device("cpu") == "cpu"
    unusable.setenv(gpus.FEIGNED, "1")
    assert gpus.automatic_device() == "cpu"
    unusable.delenv(gpus.FEIGNED)
    unusable.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert gpus.automatic_device() == "cpu"
