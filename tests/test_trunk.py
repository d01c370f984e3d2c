import functools
import hashlib

import pytest
import torch
import torchvision
from safetensors import safe_open

from brainuad.perceptual import PerceptualDistance
from brainuad.trunk import PUBLISHED, SUMS, fetch

NETWORKS = {
    "squeeze": torchvision.models.squeezenet1_1,
    "vgg": functools.partial(torchvision.models.vgg16, init_weights=False),
}


def stand_in(folder, name):
    """A file like torchvision's: random weights of the true network, named by its own checksum; and the weights."""
    torch.manual_seed(0)
    features = NETWORKS[name]().features
    weights = {f"features.{key}": value for key, value in features.state_dict().items()}
    folder.mkdir()
    torch.save({**weights, "classifier.0.weight": torch.zeros(3)}, folder / "weights")
    digest = hashlib.sha256((folder / "weights").read_bytes()).hexdigest()
    return (folder / "weights").rename(folder / f"{name}-{digest[:8]}.pth"), weights, digest


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fetched_trunk_is_the_published_file_and_the_distance_uses_it(tmp_path, name):
    file, weights, digest = stand_in(tmp_path / "server", name)
    output = tmp_path / "study/trunk.safetensors"
    fetch(name, output, url=file.as_uri())
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    with safe_open(output, "pt") as written:
        assert written.metadata() == {"source": file.name, "sha256": digest}
    distance = PerceptualDistance(output, 0.0, name)
    loaded = {f"features.{key.split('.', 1)[1]}": value for key, value in distance.distance.net.named_parameters()}
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[key], weights[key]) for key in weights)
    x, y = torch.rand((2, 2, 1, 40, 48), generator=torch.Generator().manual_seed(1))
    assert distance(x, y).shape == (2, 1, 40, 48)
    assert distance(x, y).min() > 0
    assert distance(x, x).abs().max() == 0


def test_another_file_than_the_published_one_is_refused(tmp_path):
    file, _, _ = stand_in(tmp_path / "server", "squeeze")
    wrong = file.rename(file.with_name("squeeze-00000000.pth"))
    with pytest.raises(ValueError, match=r"is not what torchvision published: its sha256 is \w{64} and .* 00000000"):
        fetch("squeeze", tmp_path / "trunk.safetensors", url=wrong.as_uri())
    assert not (tmp_path / "trunk.safetensors").exists()


def test_without_internet_the_file_may_be_put_there_by_hand(tmp_path):
    file, _, _ = stand_in(tmp_path / "server", "squeeze")
    nowhere = (tmp_path / "nowhere" / file.name).as_uri()
    output = tmp_path / "trunk.safetensors"
    with pytest.raises(ValueError, match=r"cannot be fetched .* put it at .*squeeze-\w{8}\.pth"):
        fetch("squeeze", output, url=nowhere)
    by_hand = file.rename(tmp_path / file.name)
    fetch("squeeze", output, url=nowhere)
    assert output.exists()
    assert by_hand.exists()


def test_torchvision_says_where_its_weights_are_and_how_their_checksum_begins():
    models = torchvision.models
    weights = {"squeeze": models.SqueezeNet1_1_Weights, "vgg": models.VGG16_Weights}
    assert {name: kind.IMAGENET1K_V1.url for name, kind in weights.items()} == PUBLISHED
    for url in PUBLISHED.values():
        file = url.rsplit("/", 1)[1]
        assert len(SUMS[file]) == 64
        assert SUMS[file].startswith(file.rsplit("-", 1)[1].removesuffix(".pth"))


def test_a_file_that_only_begins_with_the_published_digits_is_refused(tmp_path, monkeypatch):
    file, _, digest = stand_in(tmp_path / "server", "squeeze")
    monkeypatch.setitem(SUMS, file.name, digest[:63] + ("0" if digest[63] != "0" else "1"))
    with pytest.raises(ValueError, match="is not what torchvision published"):
        fetch("squeeze", tmp_path / "trunk.safetensors", url=file.as_uri())


def test_a_trunk_of_another_network_is_refused(tmp_path):
    file, _, _ = stand_in(tmp_path / "server", "squeeze")
    fetch("squeeze", tmp_path / "trunk.safetensors", url=file.as_uri())
    with pytest.raises(ValueError, match=r"does not hold the 26 tensors of the trunk 'vgg'"):
        PerceptualDistance(tmp_path / "trunk.safetensors", 2.0, "vgg")
