"""The validated configuration, the datasets' scans, and the lookups that rules share."""

import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

ROOT = Path(workflow.basedir)
TRUNK = ROOT / "resources/lpips/alexnet_features.safetensors"
sys.path.insert(0, str(ROOT / "scripts"))

from brainuad.configuration import check, is_floor, model_digest
from brainuad.manifest import check_splits, chunks, missing_files, read_datasets

try:
    config.update(check(config, ROOT / "config/schema/config.schema.yaml"))
    scans = read_datasets(config["datasets"])
    check_splits(scans, config["datasets"], config["training"]["datasets"], config["seed"])
except ValueError as error:
    raise WorkflowError(str(error)) from None

if workflow.is_main_process:
    for line in missing_files(scans, config["datasets"]):
        logger.warning(line)

jobs = {dataset: chunks(table, config["preprocessing"]["scans_per_job"]) for dataset, table in scans.items()}
synthetic_datasets = [dataset for dataset, entry in config["datasets"].items() if entry["from"]]
models, seeds = config["models"], config["training"]["seeds"]


wildcard_constraints:
    dataset="|".join(config["datasets"]),
    scan="sub-[A-Za-z0-9]+(_ses-[A-Za-z0-9]+)?",
    chunk="[0-9]+",
    model="|".join(models),
    seed="[0-9]+",


def raw_scans(wildcards):
    """The files of one preprocessing job; a file that is missing is set aside by the job, with its reason."""
    entry, table = config["datasets"][wildcards.dataset], jobs[wildcards.dataset][wildcards.chunk]
    files = [name for column in ("t1w", "lesion") for name in table[column] if name]
    return files if entry["phantom"] else [name for name in files if Path(name).exists()]


def scan_rows(wildcards):
    """The scans of one preprocessing job, with what the dataset declares about them."""
    columns = ["scan", "subject", "session", "t1w", "lesion"]
    rows = jobs[wildcards.dataset][wildcards.chunk][columns].to_dict("records")
    return [{**row, "skull_stripped": config["datasets"][wildcards.dataset]["skull_stripped"]} for row in rows]


def dataset_chunks(wildcards):
    """The tables of all preprocessing jobs of a dataset."""
    return collect(f"results/preprocess/{wildcards.dataset}/chunk-{{chunk}}.tsv", chunk=jobs[wildcards.dataset])


def dataset_manifest(wildcards):
    """The manifest of a dataset, if it has one: groups, ages and sites are read from it."""
    return [name for name in [config["datasets"][wildcards.dataset]["manifest"]] if name]


def source_samples(wildcards):
    """The sample set that a synthetic dataset is made from."""
    return sample_set(config["datasets"][wildcards.dataset]["from"])


def sample_set(dataset):
    """The four files of a dataset's sample set."""
    return multiext(f"results/samples/{dataset}/", "images.npy", "brain.npy", "lesion.npy", "table.tsv")


def training_samples(wildcards):
    """The sample sets that models are trained on."""
    return [name for dataset in config["training"]["datasets"] for name in sample_set(dataset)]


def upstream_model(wildcards):
    """The weights of the model that this one requires, trained with the same seed."""
    required = models[wildcards.model]["requires"]
    return [f"results/train/{required}/{wildcards.seed}/model.safetensors"] if required else []


def initial_weights(wildcards):
    """The weights that a model begins with, and their description."""
    weights = models[wildcards.model]["weights"]
    return [weights, str(Path(weights).with_suffix(".json"))] if weights else []


def training_trunk(wildcards):
    """The trunk of the perceptual distance, for a model with a perceptual term."""
    return [ancient(TRUNK)] if models[wildcards.model]["params"].get("perceptual_term") else []


def training_settings(wildcards):
    """What decides a model's weights: its entry without its label, the training section without names and seeds.

    `samples` and `preprocessing` go into the model's description: they say how images for it are made. `code` is the
    hash of the model's file: editing it trains that model again, touching it does not.
    """
    entry, section = models[wildcards.model], config["training"]
    unused = {"label", "augmentation", "weights"}
    if is_floor(entry):
        unused |= {"batch_size", "epochs", "lr", "min_lr", "warmup_epochs"}
    training = {key: value for key, value in section.items() if key not in ("datasets", "seeds")}
    return {
        **{key: value for key, value in entry.items() if key not in unused},
        "training": {**training, "augmentation": entry["augmentation"] or training["augmentation"]},
        "samples": config["samples"],
        "preprocessing": preprocessing_settings(wildcards),
        "code": model_digest(entry["class"]),
    }


def preprocessing_settings(wildcards):
    """The preprocessing section without the size of a job, which changes no scan."""
    return {key: value for key, value in config["preprocessing"].items() if key != "scans_per_job"}


def figure_datasets():
    """The healthy and the anomalous dataset that the qualitative figure shows; without synthetic ones, the first and the last."""
    names = list(config["datasets"])
    synthetic = [[config["datasets"][name]["from"], name] for name in synthetic_datasets]
    return synthetic[0] if synthetic else [names[0], names[-1]]


def table_settings(wildcards):
    """What the comparison has to know about the study."""
    labels = {name: {"label": entry["label"] or name, "floor": is_floor(entry)} for name, entry in models.items()}
    shared = {key: config[key] for key in ("study", "simulated")}
    return {**shared, **config["comparison"], "datasets": list(config["datasets"]), "models": labels}


def figure_settings(wildcards):
    """What the figures have to know about the study."""
    healthy, anomalous = figure_datasets()
    labels = {name: entry["label"] or name for name, entry in models.items()}
    return {"healthy": healthy, "anomalous": anomalous, "models": labels, "simulated": config["simulated"]}
