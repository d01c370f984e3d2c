"""Weights trained elsewhere → weights of this project: ``python -m brainuad.conversion --help``.

Reads state dicts of MONAI (1.4 to 1.6) and of monai-generative (0.2.3), without unpickling anything but tensors, and
writes safetensors and their description, which ``weights:`` in a study's configuration takes.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from brainuad.models import create, load, save

__all__ = ["convert", "read_state_dict"]

PREFIXES = ("module.", "_orig_mod.")  # of data parallelism and of compilation
WRAPPERS = ("state_dict", "model_state_dict", "model")  # under which trainers keep a state dict
EXAMPLES = """examples:
  python -m brainuad.conversion vqvae.pth vqvae.safetensors --class vqvae.VQVAE --size 128 128
  python -m brainuad.conversion transformer.pth transformer.safetensors \\
      --class vqvae_transformer.VQVAETransformer --size 128 128 --upstream vqvae.safetensors
params that differ from the class's defaults are given as YAML: --params "channels: [96, 96], codes: 256"
"""


def convert(
    checkpoint: Path,
    weights: Path,
    class_name: str,
    size: list[int],
    params: dict,
    upstream: Path | None = None,
    order: Path | None = None,
) -> None:
    """Write the weights of a checkpoint as this project's own.

    Args:
        checkpoint: a state dict, saved by ``torch.save`` or as safetensors.
        weights: the ``.safetensors`` file to write; its description goes beside it, under the same stem.
        class_name: ``file.Class`` of the model.
        size: pixels along each axis of the images it was trained on.
        params: keyword arguments of the class.
        upstream: converted weights of the model that this one builds on.
        order: a ``.npy`` file with the places of a latent image in the order in which they are read, for a
            transformer whose ordering has no name here.

    Raises:
        ValueError: the checkpoint cannot be read or does not fit the class with these params.
    """
    if weights.suffix != ".safetensors":
        raise ValueError(f"{weights} must end in .safetensors.")
    for given in filter(None, (upstream, order)):
        if not given.is_file():
            raise ValueError(f"{given} does not exist.")
    try:
        model = create(class_name, size, params, load(upstream) if upstream else None)
    except TypeError as error:
        raise ValueError(f"{class_name} cannot be built with the params {params}: {error}.") from error
    state = read_state_dict(checkpoint)
    try:
        model.adopt(state)
    except RuntimeError as error:
        reasons = "; ".join(shortened(line.strip()) for line in str(error).splitlines()[1:4])
        raise ValueError(f"{checkpoint} does not fit {class_name} with these params: {reasons}") from error
    if order is not None:
        adopt_order(model, order)
    weights.parent.mkdir(parents=True, exist_ok=True)
    save(model, weights, weights.with_suffix(".json"), {"converted_from": checkpoint.name})


def shortened(reason: str, length: int = 160) -> str:
    """One of torch's reasons; of a long list of names its beginning."""
    return reason if len(reason) <= length else f"{reason[:length]}…"


def read_state_dict(checkpoint: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU; names lose the prefixes of data parallelism and compilation.

    Raises:
        ValueError: it is no state dict, or holds objects that only unpickling could bring back.
    """
    if not checkpoint.is_file():
        raise ValueError(f"{checkpoint} {'is no file' if checkpoint.exists() else 'does not exist'}.")
    try:
        if checkpoint.suffix == ".safetensors":
            state = load_file(checkpoint)
        else:
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its zip reader and its unpickler do
        raise ValueError(
            f"{checkpoint} cannot be read as tensors ({type(error).__name__}): where it was trained, save its state "
            "dict alone by torch.save(model.state_dict(), PATH)."
        ) from error
    for wrapper in WRAPPERS:
        state = state.get(wrapper, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        found = ", ".join(map(str, state)) if isinstance(state, dict) and state else type(state).__name__
        raise ValueError(
            f"{checkpoint} holds no state dict, which is names with a tensor each, but {shortened(found)}; save the "
            f"state dict alone, or under one of {', '.join(WRAPPERS)}."
        )
    broken = [name for name, value in state.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(f"{checkpoint} has numbers in {broken[0]!r} that are not finite: it cannot be used.")
    for prefix in PREFIXES:
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def adopt_order(model: torch.nn.Module, order: Path) -> None:
    """Let a transformer read the codes in the order of a file."""
    places = np.load(order, allow_pickle=False).ravel()
    wanted = getattr(model, "orders", torch.empty(0, 0))
    if wanted.shape != (1, len(places)) or sorted(places.tolist()) != list(range(len(places))):
        raise ValueError(f"{order} does not list each of the {wanted.shape[-1]} places of the latent image once.")
    model.orders.copy_(torch.from_numpy(places.astype(np.int64))[None])


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m brainuad.conversion",
        description=__doc__.split("\n\n")[1],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="state dict of the other library (.pt, .pth, .safetensors)")
    parser.add_argument("weights", type=Path, help="file to write (.safetensors)")
    parser.add_argument("--class", dest="class_name", required=True, metavar="FILE.CLASS", help="as in `models:`")
    parser.add_argument("--size", type=int, nargs="+", required=True, metavar="PIXELS", help="image size, 2 or 3 sides")
    parser.add_argument("--params", type=yaml_mapping, default={}, metavar="YAML", help="params of the class")
    parser.add_argument("--upstream", type=Path, help="converted weights of the model that this one builds on")
    parser.add_argument("--order", type=Path, help=".npy with a transformer's reading order, if it has no name")
    options = parser.parse_args(arguments)
    try:
        convert(**vars(options))
    except ValueError as error:
        sys.exit(str(error))
    print(f"Wrote {options.weights} and {options.weights.with_suffix('.json').name} beside it.")


def yaml_mapping(text: str) -> dict:
    """A mapping in YAML, with or without its braces."""
    try:
        value = yaml.safe_load(text if text.lstrip().startswith("{") else f"{{{text}}}")
    except yaml.YAMLError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no mapping such as 'codes: 256'.")
    return value


if __name__ == "__main__":
    main()
