"""Models by name: build, save and load any ``Detector``.

A model is one file here; its class is named ``file.Class`` (``vqvae.VQVAE``) and states a ``tiny`` preset.
Nothing is registered: a class is imported when it is asked for, so that no job pays for the libraries of the
other models.
"""

import ast
import difflib
import hashlib
import importlib
import inspect
import json
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from brainuad.models.detector import Detector

__all__ = ["Detector", "available", "begin_with", "create", "load", "provenance", "save"]

PACKAGES = ("brainuad", "lightning-fabric", "monai", "numpy", "safetensors", "torch")


def available() -> list[str]:
    """Names of all model classes: those that state a ``tiny`` preset, found without importing their files."""
    return [
        f"{path.stem}.{node.name}"
        for path in sorted(Path(__file__).parent.glob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name != "Detector" and "tiny" in assigned(node)
    ]


def assigned(node: ast.ClassDef) -> set[str]:
    """Names that the body of a class gives values to."""
    targets = []
    for statement in node.body:
        targets += getattr(statement, "targets", [getattr(statement, "target", None)])
    return {target.id for target in targets if isinstance(target, ast.Name)}


def class_of(class_name: str) -> type[Detector]:
    """The class called ``file.Class``.

    Raises:
        ValueError: there is no such model.
    """
    names = available()
    if class_name not in names:
        near = difflib.get_close_matches(str(class_name), names, n=1, cutoff=0.0)[0]
        raise ValueError(f"Model class {class_name!r} does not exist: did you mean {near!r}?")
    module, name = class_name.split(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def create(class_name: str, size: Sequence[int], params: dict, upstream: Detector | None = None) -> Detector:
    """Build an untrained model; its initial weights come from torch's global generator.

    Args:
        class_name: ``file.Class``.
        size: pixels along the two or three axes of an image.
        params: keyword arguments of the class.
        upstream: trained model that this one builds on; it becomes a frozen part of it, so hand over a copy
            of its own (``load`` gives one).

    Raises:
        ValueError: unknown class or parameter, a value that the class refuses, or an upstream that does not
            fit.
    """
    cls = class_of(class_name)
    check_params(class_name, cls, params)
    if (upstream is None) != (cls.requires is None):
        wanted = f"needs a trained {cls.requires}" if cls.requires else "builds on no other model"
        raise ValueError(f"Model class {class_name} {wanted}: correct the `requires` of its entry.")
    if upstream is None:
        model = cls(size, **params)
    else:
        check_upstream(class_name, cls, size, upstream)
        model = cls(size, upstream, **params)
    model.recipe = {
        "class": class_name,
        "params": json.loads(json.dumps(params)),  # as the saved description will have them
        "size": [int(side) for side in size],
        "upstream": upstream.recipe if upstream is not None else None,
    }
    return model


def check_params(class_name: str, cls: type[Detector], params: dict) -> None:
    """Refuse parameters that the class does not know."""
    known = [name for name in inspect.signature(cls).parameters if name not in ("size", "upstream")]
    for name in params:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            advice = f"did you mean {near[0]!r}?" if near else "it takes none."
            raise ValueError(f"Model class {class_name} has no parameter {name!r}: {advice}")


def check_upstream(class_name: str, cls: type[Detector], size: Sequence[int], upstream: Detector) -> None:
    """Refuse an upstream of another class or image size."""
    if not isinstance(upstream, class_of(cls.requires)):
        raise ValueError(f"Model class {class_name} builds on {cls.requires}, not on {type(upstream).__name__}.")
    if tuple(upstream.size) != tuple(size):
        raise ValueError(
            f"Model class {class_name} is to work on images of {tuple(size)} but the model it builds on was "
            f"trained on {tuple(upstream.size)}: train both on sample sets of one size."
        )


def save(model: Detector, weights_path: Path, description_path: Path, metadata: dict) -> None:
    """Write the weights as safetensors and, as JSON, what is needed to build the model around them.

    A model that builds on another carries that one's weights, so the two files suffice.

    Args:
        model: made by ``create`` or ``load``.
        weights_path: the ``.safetensors`` file.
        description_path: the ``.json`` file; ``load`` looks for it beside the weights, under the same stem.
        metadata: anything JSON can hold; kept under ``metadata``.
    """
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    save_file(weights, weights_path)
    description = {**model.recipe, "metadata": metadata}
    Path(description_path).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load(weights_path: Path) -> Detector:
    """Read a saved model, in eval mode, on the CPU. Neither file can make Python run code.

    Raises:
        ValueError: the description is missing or does not fit the weights.
    """
    weights_path = Path(weights_path)
    description_path = weights_path.with_suffix(".json")
    if not description_path.exists():
        raise ValueError(f"{weights_path} has no {description_path.name} beside it: train the model again.")
    model = rebuild(json.loads(description_path.read_text(encoding="utf-8")))
    try:
        model.load_state_dict(load_file(weights_path))
    except RuntimeError as error:
        raise ValueError(
            f"{weights_path} does not fit the code of {model.recipe['class']}: train the model again."
        ) from error
    return model.eval()


def rebuild(recipe: dict) -> Detector:
    """An untrained model of a recipe, its upstream first."""
    upstream = rebuild(recipe["upstream"]) if recipe["upstream"] else None
    return create(recipe["class"], recipe["size"], recipe["params"], upstream)


def begin_with(detector: Detector, weights: Path) -> None:
    """Give an untrained model the weights of a trained one of its class.

    Raises:
        ValueError: the weights are of another class, do not fit, or were trained upon another upstream.
    """
    trained = load(weights)
    if type(trained) is not type(detector):
        raise ValueError(
            f"{weights} holds a {trained.recipe['class']}, not a {detector.recipe['class']}: correct the `weights` of "
            "the model's entry."
        )
    for name in detector.tied:
        if parameter(detector, name) != parameter(trained, name):
            raise ValueError(
                f"{weights} was trained with {name} {parameter(trained, name)}: write the same into the model's params."
            )
    own, values = detector.state_dict(), trained.state_dict()
    upstream = [name for name in own if name.startswith("upstream.")]
    if any(name not in values or not torch.equal(own[name], values[name]) for name in upstream):
        raise ValueError(
            f"{weights} was trained upon another model than the one that the entry `requires`: give that one the "
            "`weights` it was trained upon, with `epochs: 0`."
        )
    try:
        detector.load_state_dict(values)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{weights} does not fit the params of the model's entry: {reason}") from error


def parameter(model: Detector, name: str) -> object:
    """The value that a model was built with for a parameter, its default included."""
    default = inspect.signature(type(model)).parameters[name].default
    return json.loads(json.dumps(model.recipe["params"].get(name, default)))


def provenance(settings: dict, seed: int) -> dict:
    """What a saved model tells of its origin: the metadata that training hands to ``save``.

    Args:
        settings: those of the training; ``samples`` and ``preprocessing`` among them, the sections that say how the
            images came about, are kept whole: another scan has to go the same way.
        seed: of the training.
    """
    encoded = json.dumps(settings, sort_keys=True).encode()
    return {
        **{name: settings[name] for name in ("samples", "preprocessing") if name in settings},
        "settings_sha256": hashlib.sha256(encoded).hexdigest(),
        "seed": seed,
        "commit": commit(),
        "versions": {name: found for name in PACKAGES if (found := installed_version(name))},
    }


def commit() -> str | None:
    """Commit of the code, marked ``-dirty`` when files differ from it; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def installed_version(package: str) -> str | None:
    """Version of an installed package; None where the code is used without installation."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
