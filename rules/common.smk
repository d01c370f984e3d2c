"""The validated configuration, the datasets' scans, and what rules look up about them."""

import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT / "scripts"))

from brainuad.configuration import check, is_floor, model_digest
from brainuad.exclusions import FILE, counted, decided, read_decisions, without_excluded
from brainuad.leakage import check_people, people
from brainuad.manifest import check_splits, chunks, listing, read_datasets
from brainuad.published import check_published
from brainuad.sources import find_scans, list_files, summaries

try:
    config.update(check(config, ROOT / "config/schema/config.schema.yaml"))
    # The main process searches the disk and lists what it finds; jobs read the lists.
    found = find_scans(config["datasets"]) if workflow.is_main_process else {}
    scans = read_datasets(config["datasets"])
    decisions = read_decisions(FILE, scans)
    left = without_excluded(scans, decisions)
    check_splits(left, config["datasets"], config["training"]["datasets"], config["seed"])
    jobs = {dataset: chunks(table, config["preprocessing"]["scans_per_job"]) for dataset, table in scans.items()}
    if workflow.is_main_process:
        check_people(people(left, config["datasets"], config["seed"]))
        list_files(jobs, config["datasets"])
    published = config["comparison"]["published"]
    absent = check_published(published, config["models"], config["datasets"]) if published else ""
except ValueError as error:
    raise WorkflowError(str(error)) from None

if workflow.is_main_process:
    for summary in summaries(scans, left, config["datasets"], found):
        (logger.warning if summary.notes else logger.info)(summary.text)
    for said in filter(None, (counted(decisions), absent)):
        logger.warning(said)

synthetic_datasets = [dataset for dataset, entry in config["datasets"].items() if entry["from"]]
training_datasets = config["training"]["datasets"]
# Grids have their response surfaces; what is scored of the others goes into the tables.
grids = [dataset for dataset in synthetic_datasets if config["datasets"][dataset]["anomalies"]["grid"]]
ordinary = [dataset for dataset in config["datasets"] if dataset not in grids]
models, seeds = config["models"], config["training"]["seeds"]


wildcard_constraints:
    dataset="|".join(config["datasets"]),
    chunk="[0-9]+",
    model="|".join(models),
    seed="[0-9]+",


def raw_scans(wildcards):
    """What one preprocessing job reads: the list of its files, or of the scans that were simulated for it."""
    simulated = f"results/phantom/{wildcards.dataset}/chunk-{wildcards.chunk}.tsv"
    listed = str(listing(wildcards.dataset, wildcards.chunk))
    return simulated if config["datasets"][wildcards.dataset]["phantom"] else listed


def phantom_rows(wildcards):
    """The scans that one job simulates."""
    return jobs[wildcards.dataset][wildcards.chunk][["subject", "t1w", "group"]].to_dict("records")


def scan_rows(wildcards):
    """The scans of one preprocessing job, with what the dataset declares and a person decided about them."""
    dataset, columns = wildcards.dataset, ["scan", "subject", "session", "t1w", "lesion"]
    declared = {"skull_stripped": config["datasets"][dataset]["skull_stripped"]}
    included, unread = decided(dataset, decisions[dataset])
    rows = jobs[dataset][wildcards.chunk][columns].to_dict("records")
    return [{**row, **declared, "include": row["scan"] in included, "exclude": row["scan"] in unread} for row in rows]


def dataset_decisions(wildcards):
    """What a person decided about the scans of a dataset."""
    return decisions[wildcards.dataset]


def dataset_chunks(wildcards):
    """The tables of all preprocessing jobs of a dataset."""
    return collect(f"results/preprocess/{wildcards.dataset}/chunk-{{chunk}}.tsv", chunk=jobs[wildcards.dataset])


def scan_list(dataset):
    """The file that lists a dataset's scans, if there is one: its manifest, or what was found of it on disk."""
    entry = config["datasets"][dataset]
    found = entry["bids"] or entry["pattern"]
    return [entry["manifest"]] if entry["manifest"] else [str(listing(dataset))] if found else []


def dataset_manifest(wildcards):
    """The list of a dataset's scans: groups, ages and sites are read from it."""
    return scan_list(wildcards.dataset)


def searched():
    """What was not taken of the datasets that are searched for on disk."""
    found = [name for name in scans if config["datasets"][name]["bids"] or config["datasets"][name]["pattern"]]
    return [str(listing(name).with_suffix(".left_out.tsv")) for name in found]


def manifests():
    """The lists of the scans of all datasets that have one."""
    return [path for dataset in config["datasets"] for path in scan_list(dataset)]


def source_samples(wildcards):
    """The sample set that a synthetic dataset is made from."""
    return sample_set(config["datasets"][wildcards.dataset]["from"])


def sample_set(dataset):
    """The files of a dataset's sample set."""
    names = ("images.npy", "brain.npy", "lesion.npy", "table.tsv", "images.sha256")
    return multiext(f"results/samples/{dataset}/", *names)
