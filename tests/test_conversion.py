"""Checkpoints of MONAI and monai-generative as weights of this project, by the command."""

import numpy as np
import pytest
import torch
from monai.networks.nets import VQVAE as VQVAENetwork
from monai.networks.nets import DecoderOnlyTransformer
from monai.utils import Ordering

from brainuad.conversion import main
from brainuad.models import load
from tiny import both_sizes, brains

VQVAE_PARAMS = "channels: [8, 8], residual_units: 1, codes: 8, code_channels: 4"
SHAPE = {"num_res_layers": 1, "num_res_channels": (8, 8), "num_embeddings": 8, "embedding_dim": 4}
SCALE = {"downsample_parameters": ((2, 4, 1, 1),) * 2, "upsample_parameters": ((2, 4, 1, 1, 0),) * 2}


def vqvae_of(library, dims):
    """A tiny VQ-VAE of MONAI or monai-generative."""
    torch.manual_seed(0)
    channels = {"channels": (8, 8)} if library is VQVAENetwork else {"num_channels": (8, 8)}
    return library(spatial_dims=dims, in_channels=1, out_channels=1, **channels, **SHAPE, **SCALE).eval()


def command(checkpoint, weights, class_name, size, params, *more):
    words = [str(checkpoint), str(weights), "--class", class_name, "--size", *map(str, size), "--params", params]
    main([*words, *map(str, more)])
    return load(weights)


def convert_vqvae(folder, network, size):
    torch.save(network.state_dict(), folder / "vqvae.pth")
    return command(folder / "vqvae.pth", folder / "vqvae.safetensors", "vqvae.VQVAE", size, VQVAE_PARAMS)


def convert_transformer(folder, state, size, params="width: 32, depth: 2, heads: 4", *more):
    torch.save(state, folder / "transformer.pth")
    upstream = ("--upstream", folder / "vqvae.safetensors")
    paths = folder / "transformer.pth", folder / "transformer.safetensors"
    return command(*paths, "vqvae_transformer.VQVAETransformer", size, params, *upstream, *more)


@both_sizes
@pytest.mark.parametrize("peer", ["monai", "monai-generative"])
def test_a_vqvae_is_the_same_afterwards(tmp_path, generative, size, peer):
    theirs = vqvae_of(VQVAENetwork if peer == "monai" else generative.VQVAE, len(size))
    model = convert_vqvae(tmp_path, theirs, size)
    x = brains(2, size)
    with torch.no_grad():
        assert torch.equal(model.reconstruct(x), theirs(x)[0])


@pytest.mark.parametrize("peer", ["monai 1.6", "monai 1.4 and 1.5", "monai-generative"])
def test_a_transformer_is_the_same_afterwards(tmp_path, generative, peer):
    size = (32, 32)
    convert_vqvae(tmp_path, vqvae_of(VQVAENetwork, 2), size)
    torch.manual_seed(1)
    if peer == "monai-generative":
        theirs = generative.DecoderOnlyTransformer(9, 64, 32, 2, 4).eval()
    else:
        theirs = DecoderOnlyTransformer(9, 64, 32, 2, 4).eval()
    state = theirs.state_dict()
    if peer == "monai 1.4 and 1.5":  # which built a cross-attention that nothing used
        idle = DecoderOnlyTransformer(9, 64, 32, 2, 4, with_cross_attention=True).state_dict()
        state = {**{name: value for name, value in idle.items() if "cross_attn" in name}, **state}
        assert sum("cross_attn" in name for name in state) == 2 * (5 + 2)
    model = convert_transformer(
        tmp_path, {"epoch": torch.tensor(3), "state_dict": {f"module.{k}": v for k, v in state.items()}}, size
    )
    inputs = torch.from_numpy(np.random.default_rng(0).integers(0, 9, (2, 64)))
    with torch.no_grad():
        torch.testing.assert_close(model.transformers[0](inputs), theirs(inputs), atol=3e-6, rtol=0)
    assert not any("causal_mask" in name for name in model.state_dict())


def test_an_order_without_a_name_is_taken_from_a_file(tmp_path):
    size = (32, 32)
    convert_vqvae(tmp_path, vqvae_of(VQVAENetwork, 2), size)
    order = Ordering("s_curve", 2, (1, 8, 8)).get_sequence_ordering()
    np.save(tmp_path / "order.npy", order)
    state = DecoderOnlyTransformer(9, 64, 32, 2, 4).state_dict()
    model = convert_transformer(
        tmp_path, state, size, "width: 32, depth: 2, heads: 4", "--order", tmp_path / "order.npy"
    )
    np.testing.assert_array_equal(model.orders[0], order)
    np.save(tmp_path / "order.npy", order[:-1])
    with pytest.raises(SystemExit, match="does not list each of the 64 places"):
        convert_transformer(tmp_path, state, size, "width: 32, depth: 2, heads: 4", "--order", tmp_path / "order.npy")


class Trainer:
    """Something that only unpickling could bring back."""


def test_mistakes_are_sentences(tmp_path):
    size = (32, 32)
    network = vqvae_of(VQVAENetwork, 2)
    with pytest.raises(SystemExit, match=r"absent\.pth does not exist"):
        command(tmp_path / "absent.pth", tmp_path / "vqvae.safetensors", "vqvae.VQVAE", size, VQVAE_PARAMS)
    torch.save(network.state_dict(), tmp_path / "vqvae.pth")
    with pytest.raises(SystemExit, match=r"does not fit vqvae\.VQVAE with these params: .*size mismatch"):
        command(
            tmp_path / "vqvae.pth", tmp_path / "a.safetensors", "vqvae.VQVAE", size, VQVAE_PARAMS.replace("8]", "9]")
        )
    with pytest.raises(SystemExit, match=r"must end in \.safetensors"):
        command(tmp_path / "vqvae.pth", tmp_path / "vqvae.bin", "vqvae.VQVAE", size, VQVAE_PARAMS)
    torch.save({"model": network, "trainer": Trainer()}, tmp_path / "whole.pth")
    with pytest.raises(SystemExit, match="save its state dict alone"):
        command(tmp_path / "whole.pth", tmp_path / "a.safetensors", "vqvae.VQVAE", size, VQVAE_PARAMS)
    torch.save({"epoch": 3}, tmp_path / "number.pth")
    with pytest.raises(SystemExit, match="holds no state dict"):
        command(tmp_path / "number.pth", tmp_path / "a.safetensors", "vqvae.VQVAE", size, VQVAE_PARAMS)
    with pytest.raises(SystemExit, match="SwinMAE has no weights of another library"):
        command(
            tmp_path / "vqvae.pth",
            tmp_path / "a.safetensors",
            "swin_mae.SwinMAE",
            size,
            "width: 12, heads: [2, 4], unit: 8",
        )
    assert not list(tmp_path.glob("a.*"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"size": (0, 0)}, "every side has 1 pixel or more"),
        ({"params": "channels: 8"}, "cannot be built with the params"),
        ({"more": ["--upstream", "absent.safetensors"]}, r"absent\.safetensors does not exist"),
        ({"more": ["--order", "absent.npy"]}, r"absent\.npy does not exist"),
        ({"checkpoint": "."}, "is no file"),
        ({"state": {"network": torch.zeros(1)}}, "Missing key"),
        ({"state": {"net": {"a": torch.zeros(1)}, "epoch": 1}}, "but net, epoch; save the state dict alone"),
        ({"state": {"a": torch.full((2,), torch.nan)}}, "numbers in 'a' that are not finite"),
    ],
)
def test_odd_input_is_a_sentence(tmp_path, change, says):
    torch.save(change.get("state", vqvae_of(VQVAENetwork, 2).state_dict()), tmp_path / "vqvae.pth")
    checkpoint = change.get("checkpoint", tmp_path / "vqvae.pth")
    paths = checkpoint, tmp_path / "vqvae.safetensors", "vqvae.VQVAE"
    with pytest.raises(SystemExit, match=says) as error:
        command(*paths, change.get("size", (32, 32)), change.get("params", VQVAE_PARAMS), *change.get("more", []))
    assert len(str(error.value)) < 900
    assert not (tmp_path / "vqvae.safetensors").exists()


def test_params_that_are_no_yaml_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command(tmp_path / "vqvae.pth", tmp_path / "vqvae.safetensors", "vqvae.VQVAE", (32, 32), "channels: [8")
    assert "is no mapping such as" in capsys.readouterr().err


def test_names_lose_the_prefixes_of_wrappers(tmp_path):
    network = vqvae_of(VQVAENetwork, 2)
    torch.save({f"module._orig_mod.{k}": v for k, v in network.state_dict().items()}, tmp_path / "vqvae.pth")
    model = command(tmp_path / "vqvae.pth", tmp_path / "a.safetensors", "vqvae.VQVAE", (32, 32), VQVAE_PARAMS)
    assert all(torch.equal(v, model.network.state_dict()[k]) for k, v in network.state_dict().items())
