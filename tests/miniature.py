"""Write a miniature study: the whole workflow on small simulated scans, in a minute or two.

``python tests/miniature.py FOLDER`` writes ``FOLDER/config/config.yaml``: the demonstration's study with two sites, few
subjects, small images, two epochs and each model in its ``tiny`` preset. Run it with ``snakemake --directory FOLDER``.
"""

import importlib
import shutil
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def miniature(folder: Path) -> dict:
    """Write the study and return its configuration."""
    config = yaml.safe_load((ROOT / "demo/config/config.yaml").read_text())
    for name in ("phantom_c", "phantom_d"):
        del config["datasets"][name]
    for name, entry in config["datasets"].items():
        if "phantom" in entry:
            entry["phantom"]["subjects"] = 8 if name in config["training"]["datasets"] else 2
            entry["phantom"].setdefault("site", {})["spacing"] = [3.0, 3.0, 3.0]
            continue
        if "grid" in entry["anomalies"]:
            entry["anomalies"] = {
                "kinds": ["ellipse", "blur"],
                "grid": {"size": [6, 12], "intensity": [1.0], "samples": 2},
            }
            continue
        entry["anomalies"]["size"] = [6, 10]
    # With this seed the eight subjects of the training dataset fall 3 to training, 2 to validation, 3 to test.
    config["seed"] = 3
    config["datasets"]["phantom_a"]["split"] = {"train": 0.4, "validation": 0.35, "test": 0.25}
    config["datasets"]["phantom_b"]["phantom"] |= {"subjects": 4, "patients": {"share": 0.5}}
    config["datasets"]["phantom_b"]["groups"] = {"reference": "control"}
    config["preprocessing"]["resolution"] = 4.0
    config["samples"] = {"size": [48, 48], "spacing": 4.0, "positions": [8.0]}
    config["models"] = {name: config["models"][name] for name in ("vqvae", "voxel_z")}
    for entry in config["models"].values():
        module, name = entry["class"].split(".")
        entry["params"] = plain(getattr(importlib.import_module(f"brainuad.models.{module}"), name).tiny)
        entry.update(epochs=2, batch_size=2)
    config["maps"] |= {"models": ["vqvae"], "minimum_subjects": 2}
    write(folder, config)
    return config


def patient(folder: Path) -> dict:
    """Write the study of the tests on Slurm, of one dataset and the one model ``Patient``; return its configuration."""
    config = yaml.safe_load((ROOT / "demo/config/config.yaml").read_text())
    config["datasets"] = {"phantom_a": config["datasets"]["phantom_a"]}
    config["models"] = {"patient": {"class": "patient.Patient", "epochs": 8, "batch_size": 2}}
    config["comparison"] = config["maps"] = {}  # which name a floor and models of the demonstration
    write(folder, config)
    return config


def copy_repository(copy: Path) -> Path:
    """Copy what Snakemake needs of the repository, with the model ``Patient`` among the others."""
    for name in ("rules", "scripts", "envs", "config", "resources", "profiles"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "slurm", copy, follow_symlinks=False)
    shutil.copy2(ROOT / "Snakefile", copy)
    shutil.copy2(ROOT / "tests/slurm/patient.py", copy / "scripts/brainuad/models")
    return copy


def plain(value):
    """Turn tuples into the lists that YAML knows."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def write(folder: Path, config: dict) -> None:
    """Write a study's configuration."""
    path = Path(folder) / "config/config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config, sort_keys=False))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "scripts"))
    miniature(Path(sys.argv[1]))
