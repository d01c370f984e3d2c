"""The configuration of a study: defaults, closed schema, cross-references.

Each mistake stops the run with one sentence that names the key and, where one is near, the name that was meant.
"""

import ast
import difflib
import hashlib
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jsonschema
import yaml

__all__ = ["ConfigurationError", "check", "is_floor", "model_classes", "model_digest", "nearest"]

SOURCES = ("manifest", "bids", "pattern", "phantom", "from")
PLACEHOLDERS = ("subject", "session", "group", "age", "sex", "site", "family")  # of a pattern
SMALLEST_SLICE = 32  # AlexNet's pooling leaves nothing of a smaller image
MODELS = Path(__file__).parent / "models"


class ConfigurationError(ValueError):
    """A study that cannot be run as configured; the message is a sentence for the user."""

    def __init__(self, message: str):
        super().__init__(message.replace("?.", "?"))  # a sentence may end with a question


def check(config: dict, schema: Path) -> dict:
    """Return the configuration with all defaults filled in.

    Args:
        config: what the user wrote.
        schema: the JSON schema in YAML.

    Raises:
        ConfigurationError: for the first mistake found.
    """
    rules = yaml.safe_load(Path(schema).read_text())
    refuse_odd_keys(config)
    refuse_wrong_values(config, rules)
    filled = fill(config, rules)
    filled["simulated"] = filled["simulated"] or any(entry["phantom"] for entry in filled["datasets"].values())
    for entry in filled["datasets"].values():
        for section, keys in ((entry, ("manifest", "participants")), (entry["groups"] or {}, ("regions", "names"))):
            section |= {key: os.path.expanduser(section[key]) for key in keys if section.get(key)}
    for entry in filled["models"].values():
        entry["weights"] = entry["weights"] and os.path.expanduser(entry["weights"])
    check_datasets(filled)
    check_samples(filled)
    check_models(filled)
    check_comparison(filled)
    check_maps(filled)
    return filled


def refuse_odd_keys(value, path: str = "") -> None:
    """Refuse keys that are no text (YAML reads `1:` as a number) and numbers that are none."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigurationError(f"`{path}` is {value}, which is not a number to compute with.")
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        if isinstance(value, dict) and not isinstance(name, str):
            raise ConfigurationError(f"The key `{path}.{name}` must be a name that starts with a letter.")
        refuse_odd_keys(entry, f"{path}.{name}".lstrip("."))


def refuse_wrong_values(config: dict, rules: dict) -> None:
    """Turn the most telling violation of the schema into a sentence."""
    errors = list(jsonschema.Draft202012Validator(rules).iter_errors(config))
    if errors:
        raise ConfigurationError(
            sentence(min(errors, key=lambda error: (error.validator != "additionalProperties", len(error.path))))
        )


def sentence(error: jsonschema.ValidationError) -> str:
    """Say in words what a violation of the schema is."""
    key = ".".join(str(part) for part in error.absolute_path)
    value = error.instance
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        unknown = next(name for name in value if name not in known)
        full = f"{key}.{unknown}" if key else str(unknown)
        return f"`{full}` is not a known key{nearest(str(unknown), known)}."
    if error.validator == "type":
        hint = "; write 1.0e-4, not 1e-4" if isinstance(value, str) and is_number(value) else ""
        wanted = error.validator_value if isinstance(error.validator_value, str) else " or ".join(error.validator_value)
        return f"`{key}` must be of type {wanted}, but {value!r} is of type {type(value).__name__}{hint}."
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in value)
        return f"`{key}` lacks the key `{missing}`."
    if error.validator == "enum":
        choices = ", ".join(str(choice) for choice in error.validator_value)
        return f"`{key}` is {value!r}, which is none of {choices}{nearest(str(value), error.validator_value)}."
    if error.validator in ("minProperties", "minItems"):
        return f"`{key}` has {len(value)} entries: it needs at least {error.validator_value}."
    if error.validator == "pattern" and "propertyNames" in error.absolute_schema_path:
        return (
            f"`{key}`: the name {value!r} may hold small letters, digits and underscores only and starts with a letter."
        )
    return f"`{key}`: {error.message}."


def is_number(text: str) -> bool:
    """Whether a text reads as a number; YAML takes ``1e-4`` for a text."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def nearest(name: str, known: Iterable) -> str:
    """Phrase the nearest known name as a question, or list what is known if none is near."""
    known = [str(candidate) for candidate in known]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean `{close[0]}`?"
    return f"; known are {', '.join(known)}" if known else ""


def fill(value, rules: dict):
    """Return a copy of a value with the defaults of its schema, at every depth, and integers as such."""
    if isinstance(value, list):
        return [fill(entry, rules.get("items", {})) for entry in value]
    if not isinstance(value, dict):
        return int(value) if rules.get("type") == "integer" else value  # 24.0 is an integer to the schema
    filled = {name: rule["default"] for name, rule in rules.get("properties", {}).items() if "default" in rule}
    filled.update(value)
    other = rules.get("additionalProperties")
    other = other if isinstance(other, dict) else {}
    return {name: fill(entry, rules.get("properties", {}).get(name, other)) for name, entry in filled.items()}


def refer(key: str, name: str, known: Iterable[str]) -> None:
    """Refuse a reference to something that is not there."""
    known = list(known)
    if name not in known:
        raise ConfigurationError(f"`{key}` names {name!r}, which does not exist{nearest(name, known)}.")


def check_datasets(config: dict) -> None:
    """One source each; ``from`` names a dataset with scans; splits sum to 1; the training datasets exist."""
    datasets = config["datasets"]
    own = [name for name, entry in datasets.items() if entry["from"] is None]
    for name, entry in datasets.items():
        given = [source for source in SOURCES if entry[source] is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ConfigurationError(
                f"`datasets.{name}` needs exactly one source of {', '.join(SOURCES)}; found {found}."
            )
        check_pattern(f"datasets.{name}", entry)
        check_groups(f"datasets.{name}.groups", entry)
        if entry["from"] is not None:
            refer(f"datasets.{name}.from", entry["from"], own)
        elif abs(sum(entry["split"].values()) - 1) > 1e-6:
            raise ConfigurationError(
                f"`datasets.{name}.split` sums to {sum(entry['split'].values()):g}; its three shares must sum to 1."
            )
        for key in ("size", "intensity"):
            if entry["from"] is not None and entry["anomalies"][key][0] > entry["anomalies"][key][1]:
                raise ConfigurationError(f"`datasets.{name}.anomalies.{key}` must be [smallest, largest].")
    for name in config["training"]["datasets"]:
        refer("training.datasets", name, own)
        # A manifest may have a column that says who is learnt from.
        if datasets[name]["split"]["train"] == 0 and datasets[name]["manifest"] is None:
            raise ConfigurationError(f"`training.datasets` names {name!r}, but `datasets.{name}.split.train` is 0.")


def check_pattern(key: str, entry: dict) -> None:
    """Patterns are well-formed; what belongs to scans found on disk stands beside a pattern or a BIDS root."""
    for name in ("lesion", "participants"):
        if entry[name] is not None and entry["pattern"] is None and entry["bids"] is None:
            raise ConfigurationError(f"`{key}.{name}` goes with `pattern` or `bids`; a manifest has columns for it.")
    if any(entry["columns"].values()) and entry["participants"] is None and entry["bids"] is None:
        raise ConfigurationError(f"`{key}.columns` says what the columns of `participants` mean, which is not given.")
    sessions = {}
    for name in ("pattern", "lesion"):
        patterns = [entry[name]] if isinstance(entry[name], str) else entry[name] or []
        for pattern in patterns:
            check_placeholders(f"{key}.{name}", pattern)
        sessions[name] = any("{session}" in pattern for pattern in patterns)
    if entry["lesion"] is not None and entry["pattern"] is not None and sessions["pattern"] != sessions["lesion"]:
        raise ConfigurationError(f"`{key}`: `pattern` and `lesion` must both have {{session}}, or neither.")


def check_groups(key: str, entry: dict) -> None:
    """Groups are of people; names are of regions."""
    groups = entry["groups"]
    if groups is not None and entry["from"] is not None:
        raise ConfigurationError(f"`{key}` compares scans as they are: put it beside the dataset {entry['from']!r}.")
    if groups is not None and groups["names"] is not None and groups["regions"] is None:
        raise ConfigurationError(f"`{key}.names` names the labels of `{key}.regions`, which is not given.")


def check_placeholders(key: str, pattern: str) -> None:
    """A pattern has {subject}, no placeholder that is not known, and nothing that leads to other folders."""
    names = re.findall(r"\{([^{}]*)\}", pattern)
    for name in names:
        if name not in PLACEHOLDERS:
            raise ConfigurationError(f"`{key}` has a {{{name}}}, which is not known{nearest(name, PLACEHOLDERS)}.")
    if re.search(r"[{}]", re.sub(r"\{\w*\}", "", pattern)):
        raise ConfigurationError(f"`{key}` is {pattern!r}, in which a brace is not closed or not opened.")
    if "subject" not in names:
        raise ConfigurationError(f"`{key}` is {pattern!r}, which lacks {{subject}}: it says whose scan a file is.")
    if "**" in pattern:
        raise ConfigurationError(f"`{key}` has a **, but a match never crosses a folder: write one * for each level.")
    if ".." in pattern.split("/"):
        raise ConfigurationError(f"`{key}` leads out of a folder by ..; write an absolute path.")


def check_samples(config: dict) -> None:
    """Samples are large enough to be scored and hold their anomalies; slices need positions; percentiles in order."""
    samples = config["samples"]
    if min(samples["size"][:2]) < SMALLEST_SLICE:
        raise ConfigurationError(
            f"`samples.size` is {samples['size']}, but the perceptual distance needs at least {SMALLEST_SLICE} pixels "
            "along x and y."
        )
    if len(samples["size"]) == 2 and not samples["positions"]:
        raise ConfigurationError("`samples.positions` is empty: slices need at least one position in mm.")
    for name, entry in config["datasets"].items():
        anomalies = (entry["from"] and entry["anomalies"]) or {"size": [0], "grid": None}
        if max((anomalies["grid"] or anomalies)["size"]) > min(samples["size"][:2]):
            raise ConfigurationError(
                f"`datasets.{name}.anomalies` are larger than the frame: `size` is in pixels, of which `samples.size` "
                f"has {min(samples['size'][:2])} along its shorter side."
            )
    low, high = (config["preprocessing"]["normalization"][key] for key in ("low", "high"))
    if low >= high:
        raise ConfigurationError(f"`preprocessing.normalization.low` ({low:g}) must be below `high` ({high:g}).")


def check_models(config: dict) -> None:
    """Each class exists, takes the parameters it is given, and requires models that exist, without a circle."""
    classes, labels = model_classes(), {}
    for name, entry in config["models"].items():
        label = entry["label"] or name
        if label in labels:
            raise ConfigurationError(f"`models.{name}` and `models.{labels[label]}` have the same label {label!r}.")
        labels[label] = name
        check_weights(name, entry)
        if entry["warmup_epochs"] >= max(entry["epochs"], 1):
            raise ConfigurationError(f"`models.{name}.warmup_epochs` must be below its `epochs` ({entry['epochs']}).")
        if entry["class"] not in classes:
            raise ConfigurationError(
                f"`models.{name}.class` is {entry['class']!r}, which is not in scripts/brainuad/models"
                f"{nearest(entry['class'], classes)}."
            )
        for parameter in entry["params"]:
            if parameter not in classes[entry["class"]].parameters:
                raise ConfigurationError(
                    f"`models.{name}.params.{parameter}` is not a parameter of {entry['class']}"
                    f"{nearest(parameter, classes[entry['class']].parameters)}."
                )
        follow_requires(name, config["models"])
        check_required_class(name, config["models"], classes[entry["class"]].requires)


def check_comparison(config: dict) -> None:
    """The floor that models are held against is one."""
    floor = config["comparison"]["floor"]
    if floor is None:
        return
    refer("comparison.floor", floor, config["models"])
    floors = [name for name, entry in config["models"].items() if is_floor(entry)]
    if floor not in floors:
        raise ConfigurationError(
            f"`comparison.floor` names {floor!r}, which is a trained model: name one of the floors, "
            f"{', '.join(floors) or 'of which this study has none'}, or null for the strongest."
        )


def check_maps(config: dict) -> None:
    """Maps are asked for of what there is; samples of a grid of anomalies lie on top of each other."""
    maps, datasets = config["maps"], config["datasets"]
    ordinary = [name for name, entry in datasets.items() if not (entry["from"] and entry["anomalies"]["grid"])]
    for key, known in (("datasets", ordinary), ("models", config["models"]), ("seeds", config["training"]["seeds"])):
        for name in maps[key] or ():
            refer(f"maps.{key}", name, known)


def check_weights(name: str, entry: dict) -> None:
    """Weights are for models that train some; without an epoch there must be weights."""
    if entry["weights"] is None and entry["epochs"] == 0:
        raise ConfigurationError(f"`models.{name}.epochs` is 0, so `models.{name}.weights` must name trained weights.")
    if entry["weights"] is None:
        return
    if is_floor(entry):
        raise ConfigurationError(f"`models.{name}.weights`: {entry['class']} is fitted at once and begins with none.")
    if not entry["weights"].endswith(".safetensors"):
        raise ConfigurationError(
            f"`models.{name}.weights` must be a .safetensors file with its .json beside it; "
            "`python -m brainuad.conversion --help` says how to make one of another checkpoint."
        )


def follow_requires(name: str, models: dict) -> None:
    """Walk up what a model builds on; refuse a name that is not there and a circle."""
    seen = [name]
    while (required := models[seen[-1]]["requires"]) is not None:
        refer(f"models.{seen[-1]}.requires", required, [other for other in models if other != seen[-1]])
        if required in seen:
            raise ConfigurationError(f"`models.{name}.requires` goes in a circle: {' → '.join([*seen, required])}.")
        seen.append(required)


def check_required_class(name: str, models: dict, wanted: str | None) -> None:
    """A class that builds on another gets a model of that class; one that does not gets none."""
    required = models[name]["requires"]
    given = models[required]["class"] if required else None
    if given != wanted:
        needs = f"requires a model of class {wanted}" if wanted else "requires no other model"
        found = f"{required!r} of class {given}" if required else "none"
        raise ConfigurationError(f"`models.{name}`: {models[name]['class']} {needs}, but `requires` names {found}.")


class ModelClass(NamedTuple):
    """What is known of a model without importing it."""

    parameters: list[str]
    requires: str | None


def model_classes() -> dict[str, ModelClass]:
    """Map ``module.Class`` of each model to its parameters and the class that it builds on.

    The files are parsed, not imported: importing torch would cost every job seconds.
    """
    found = {}
    for path in sorted(MODELS.glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and path.stem not in ("__init__", "detector"):
                found[f"{path.stem}.{node.name}"] = model_class(node)
    return {name: known for name, known in found.items() if known is not None}


def model_class(node: ast.ClassDef) -> ModelClass | None:
    """Read a class statement; None for a class that is not a model, which states no ``tiny`` preset."""
    values = {}
    for item in node.body:
        if isinstance(item, ast.AnnAssign | ast.Assign):
            target = item.target if isinstance(item, ast.AnnAssign) else item.targets[0]
            values[getattr(target, "id", None)] = item.value
    if "tiny" not in values:
        return None
    requires = values["requires"].value if isinstance(values.get("requires"), ast.Constant) else None
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            names = [argument.arg for argument in (*item.args.args, *item.args.kwonlyargs)]
            return ModelClass([name for name in names if name not in ("self", "size", "upstream")], requires)
    return ModelClass([], requires)


def model_digest(name: str) -> str:
    """Hash of the code of a model ``module.Class``: its file and the model files it imports.

    Editing one of them trains the model again; touching it, or checking it out anew, does not.
    """
    found, queue = set(), [name.split(".")[0]]
    while queue:
        module = queue.pop()
        if module not in found and module != "detector":
            found.add(module)
            queue += re.findall(r"brainuad\.models\.(\w+)", (MODELS / f"{module}.py").read_text())
    digest = hashlib.sha256()
    for module in sorted(found):
        digest.update((MODELS / f"{module}.py").read_bytes())
    return digest.hexdigest()


def is_floor(entry: dict) -> bool:
    """Whether a model's entry is a no-learning floor."""
    return entry["class"].startswith("floors.")
