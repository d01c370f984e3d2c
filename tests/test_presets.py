"""The paper's study, the presets laid over it and its twin on simulated scans, down to the networks that they build."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config

from brainuad.configuration import check
from brainuad.manifest import read_datasets, splits
from brainuad.models import create
from conftest import ROOT

PRESETS = sorted((ROOT / "config/presets").glob("*.yaml"))
OFFICIAL, DIFFUSION = (ROOT / "config/presets" / f"{name}.yaml" for name in ("official", "diffusion"))
SCHEMA = ROOT / "config/schema/config.schema.yaml"
PAPER = yaml.safe_load((ROOT / "config/config.yaml").read_text())
SIMULATED = ROOT / "simulated/config/config.yaml"


def study(preset=None):
    """The paper's study, with a preset laid over it as Snakemake does."""
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    if preset:
        update_config(config, yaml.safe_load(preset.read_text()))
    return check(config, SCHEMA)


def networks(config):
    """Every trained model of a study at its size, by entry."""
    models = {}
    for name, entry in config["models"].items():
        upstream = models[entry["requires"]] if entry["requires"] else None
        models[name] = create(entry["class"], config["samples"]["size"], entry["params"], upstream)
    return models


def own_parameters(model):
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith("upstream."))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_changes_models_only(preset):
    config, paper = study(preset), study()
    assert {key for key in config if config[key] != paper[key]} <= {"study", "models"}
    added = ["diffusion"] if preset == DIFFUSION else []
    assert list(config["models"]) == [*paper["models"], *added]
    assert all(config["models"][name]["class"] == entry["class"] for name, entry in paper["models"].items())


def test_the_study_is_table_1_of_the_paper():
    rows = {name: (e["batch_size"], e["epochs"], e["lr"], e["min_lr"]) for name, e in study()["models"].items()}
    assert rows["vqvae"] == (32, 1000, 5e-4, None)
    assert rows["swin_mae"] == (32, 1000, 1e-3, 1e-6)
    assert rows["rae"] == (8, 1000, 2e-4, 1e-6)
    assert rows["vqvae_transformer"] == (4, 500, 1e-4, None)


def test_what_is_beyond_the_paper_has_the_updates_of_its_own():
    models, images = study(DIFFUSION)["models"], round(0.85 * 1113)  # HCP's training scans
    updates = {name: models[name]["epochs"] * images // models[name]["batch_size"] for name in ("dae", "diffusion")}
    assert updates["dae"] == pytest.approx(67_200, rel=0.02)
    assert updates["diffusion"] == pytest.approx(300_000, rel=0.01)


def test_the_official_preset_has_the_official_numbers():
    config = study(OFFICIAL)
    models = config["models"]
    assert (models["swin_mae"]["batch_size"], models["swin_mae"]["epochs"], models["swin_mae"]["lr"]) == (96, 400, 1e-3)
    assert (models["rae"]["batch_size"], models["rae"]["lr"], models["rae"]["min_lr"]) == (8, 5e-5, None)
    assert (models["vqvae"]["batch_size"], models["vqvae_transformer"]["batch_size"]) == (256, 32)
    assert models["swin_mae"]["params"] == {"loss": "squared", "optimizer": "adamw", "side": 224, "channels": 3}
    counts = {name: own_parameters(model) for name, model in networks(config).items() if "." in models[name]["class"]}
    assert counts["vqvae"] == 11_843_649
    assert counts["vqvae_transformer"] == 3_301_649
    assert counts["rae"] == 29_955_073
    assert counts["swin_mae"] == 26_936_916


def test_the_papers_networks_have_the_sizes_of_the_docs():
    counts = {name: own_parameters(model) for name, model in networks(study(DIFFUSION)).items()}
    text = (ROOT / "docs/deviations.md").read_text()
    for name in ("vqvae", "swin_mae", "rae", "vqvae_transformer", "dae", "diffusion"):
        assert f"{counts[name]:,}" in text, f"docs/deviations.md does not give the parameters of {name}"


def test_the_example_in_the_docs_is_a_model():
    text = (ROOT / "docs/deviations.md").read_text().split("```yaml")[1].split("```")[0]
    example = yaml.safe_load(text)["models"]
    config = check({**PAPER, "models": {**PAPER["models"], **example}}, SCHEMA)
    model = networks({**config, "models": {name: config["models"][name] for name in ("vqvae", *example)}})
    assert len(model["vqvae_transformer_ensemble"].transformers) == 8


@pytest.mark.workflow
@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_the_commands_in_the_preset_plan_the_study(preset, tmp_path):
    config = tmp_path / "config"
    (config / "datasets").mkdir(parents=True)
    for name in ("config.yaml", "presets", "published", "schema"):
        (config / name).symlink_to(ROOT / "config" / name)
    for dataset in ("hcp", "oasis3", "ixi", "santpau"):
        rows = [f"{dataset}{i:03d}\t{dataset}{i:03d}.nii.gz" for i in range(60)]
        (config / "datasets" / f"{dataset}.tsv").write_text("\n".join(["subject\tt1w", *rows]))
    commands = [line.lstrip("# ") for line in preset.read_text().splitlines() if line.startswith("#   ")]
    snakemake = f"{Path(sys.executable).parent / 'snakemake'} --snakefile {ROOT / 'Snakefile'} -n"
    script = "\n".join(command.replace("snakemake", snakemake, 1) for command in commands)
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "train" in done.stdout
    assert (tmp_path / "official").is_dir() == (preset == OFFICIAL)
    assert ("results/train/diffusion/1/model.safetensors" in done.stdout) == (preset == DIFFUSION)


def test_the_simulated_study_is_the_papers_but_for_its_scans():
    config, paper = check(yaml.safe_load(SIMULATED.read_text()), SCHEMA), study()
    assert {key for key in config if config[key] != paper[key]} == {
        *("study", "simulated", "seed", "datasets", "training", "models", "comparison")
    }
    assert config["training"] == {**paper["training"], "datasets": ["simulated"], "seeds": [1]}
    assert config["comparison"] == {**paper["comparison"], "published": None}
    assert config["models"] == {name: entry for name, entry in paper["models"].items() if name != "dae"}
    assert config["datasets"]["simulated_synthetic"]["anomalies"] == paper["datasets"]["hcp_synthetic"]["anomalies"]


def test_as_many_simulated_subjects_are_learnt_from_and_tested_as_in_the_paper():
    config = check(yaml.safe_load(SIMULATED.read_text()), SCHEMA)
    (scans,) = read_datasets(config["datasets"]).values()
    drawn = splits(scans, config["datasets"]["simulated"]["split"], config["seed"])
    assert {name: drawn.count(name) for name in set(drawn)} == {"train": 1002, "validation": 56, "test": 111}


@pytest.mark.workflow
def test_the_simulated_study_can_be_planned(tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").symlink_to(SIMULATED)
    command = [Path(sys.executable).parent / "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", tmp_path]
    command += ["-n", "--quiet", "rules", "--cores", "8", "--resources", "gpu=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout, re.M))
    assert jobs["phantom"] == jobs["preprocess"] == "74"  # of 16 scans and a last one of one
    assert jobs["train"] == "11"
    assert jobs["score"] == jobs["metrics"] == "22"
    assert f"\n- {jobs['total']} jobs" in (ROOT / "docs/benchmarks.md").read_text()
