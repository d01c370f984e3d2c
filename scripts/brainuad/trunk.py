"""Fetches the trunks of the perceptual distance that are not shipped: SqueezeNet and VGG, from torchvision's place.

A trunk is the convolutional part of a network trained on ImageNet. torchvision publishes where its weights lie and, in
the name of each file, the first eight digits of its SHA-256. The whole sums are not published with torchvision: those
below begin with its digits and are what many projects that use these files have written down. Another file is refused.
"""

import hashlib
import os
import pickle
import shutil
import urllib.error
import urllib.request
from pathlib import Path

import torch
from safetensors.torch import save_file

__all__ = ["PUBLISHED", "fetch"]

# Where torchvision has the version (IMAGENET1K_V1) that LPIPS was calibrated with. Asking it takes a second of imports.
PUBLISHED = {
    "squeeze": "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
    "vgg": "https://download.pytorch.org/models/vgg16-397923af.pth",
}
SUMS = {
    "squeezenet1_1-b8a52dc0.pth": "b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
    "vgg16-397923af.pth": "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
}


def fetch(name: str, output: Path, url: str | None = None) -> None:
    """Write a trunk for the perceptual distance.

    Args:
        name: ``squeeze`` or ``vgg``.
        output: safetensors file to write; the downloaded file is taken from its folder if it lies there already.
        url: another place to take the file from; its name must be the published one.

    Raises:
        ValueError: the file cannot be had or is not the published one.
    """
    url = url or PUBLISHED[name]
    output.parent.mkdir(parents=True, exist_ok=True)
    original = output.parent / url.rsplit("/", 1)[1]
    kept = original.exists()
    if not kept:
        download(url, original)
    digest = refuse_other(original, url)
    weights = {key: value for key, value in read(original).items() if key.startswith("features.")}
    temporary = output.with_name(output.name + ".new")
    save_file(weights, temporary, {"source": original.name, "sha256": digest})
    os.replace(temporary, output)
    if not kept:
        original.unlink()
    print(f"{output}: {len(weights)} tensors of {original.name}, sha256 {digest}")


def download(url: str, path: Path) -> None:
    """Copy a file from the internet; it appears only when it is whole.

    Raises:
        ValueError: it cannot be reached.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        with urllib.request.urlopen(url, timeout=60) as response, temporary.open("wb") as file:
            shutil.copyfileobj(response, file)
    except (urllib.error.URLError, OSError) as error:
        raise ValueError(
            f"{url} cannot be fetched ({error}): run the rule where there is internet, or fetch the file elsewhere and "
            f"put it at {path}."
        ) from None
    os.replace(temporary, path)


def refuse_other(path: Path, url: str) -> str:
    """Compare a file with the SHA-256 of its published name, or the digits that such a name ends with; returns it."""
    file = url.rsplit("/", 1)[1]
    wanted = SUMS.get(file, file.rsplit("-", 1)[1].split(".")[0])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(wanted):
        raise ValueError(
            f"{path} is not what torchvision published: its sha256 is {digest} and does not begin with {wanted}. "
            "Delete it and run the rule again."
        )
    return digest


def read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file that torch wrote, loaded without unpickling objects."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} holds no weights that torch can read ({error}).") from None
