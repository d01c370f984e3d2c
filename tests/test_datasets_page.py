"""docs/datasets.md: its trees are built of simulated scans, its commands run, and what is printed stands there."""

import gzip
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml

from brainuad.phantom import Site, simulate
from conftest import ROOT

PAGE = (ROOT / "docs/datasets.md").read_text()
SMALL = {  # added to the page's configuration, so that minutes become seconds
    "preprocessing": {"resolution": 4.0, "scans_per_job": 4, "registration": {"spacing": 6.0}},
    "simulated": True,
}


SECRET = "Doe^Jane"  # as scanners write it into headers


class Block(NamedTuple):
    """A fenced block: its language, the file that it is the content of, its text."""

    language: str
    path: str
    text: str


def blocks(text):
    return [Block(*found) for found in re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", text, re.M | re.S)]


SECTIONS = {text.split("\n")[0]: blocks(text) for text in re.split(r"^## ", PAGE, flags=re.M)}
EXAMPLES = [name for name, found in SECTIONS.items() if any(block.path.endswith("config.yaml") for block in found)][1:]


def printed(name):
    """What the page says that Snakemake prints of an example: its last block."""
    return SECTIONS[name][-1].text


def build(folder):
    """Write the study of the page and the disk that it speaks of; returns the study's folder."""
    config = {**SMALL, "datasets": {}}
    number = 0
    for section in SECTIONS.values():
        for block in section:
            text = block.text.replace("/data/", f"{folder}/data/")
            path = Path(text.split("\n")[0]) if not block.path else place(folder, block.path)
            if path.name == "config.yaml":
                written = yaml.safe_load(text)
                config["datasets"] |= written.pop("datasets", {})
                config |= written
            elif block.path:
                path.parent.mkdir(parents=True, exist_ok=True)
                excel = path.suffix == ".csv" and ";" in text  # as Excel writes it
                path.write_text(text, encoding="utf-8-sig" if excel else "utf-8", newline="\r\n" if excel else "\n")
            elif block.text.startswith("/data/"):
                for line in text.splitlines():
                    number += 1
                    scan(Path(line), number)
    path = folder / "my_study/config/config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return folder / "my_study"


def place(folder, path):
    return Path(f"{folder}{path}") if path.startswith("/") else folder / path


@cache
def brain():
    """One simulated brain, as simulating takes seconds."""
    return simulate("001", Site(spacing=(4.0, 4.0, 4.0)), seed=5).t1w


def scan(path, number):
    """A scan with noise of its own: no two are equal voxel for voxel. What is no image is written with its content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nii", ".nii.gz")):
        values = np.asarray(brain().dataobj).astype(np.float32)
        noise = np.random.default_rng(number).normal(0, 10, values.shape)
        image = nibabel.Nifti1Image(((values + noise) * (values > 0)).clip(0).astype(np.int16), brain().affine)
        image.header["descrip"] = image.header["db_name"] = SECRET
        nibabel.save(image, path)


def snakemake(study, *arguments):
    command = [Path(sys.executable).parent / "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", study]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return (done.stdout + done.stderr).replace(f"{study.parent}/data/", "/data/")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return build(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def planned(study):
    """What `snakemake -n` prints."""
    return snakemake(study, "-n")


def test_every_source_has_an_example():
    assert len(EXAMPLES) == 6
    assert {block.language for name in EXAMPLES for block in SECTIONS[name]} == {"text", "tsv", "csv", "json", "yaml"}


@pytest.mark.workflow
@pytest.mark.parametrize("name", EXAMPLES)
def test_snakemake_prints_what_the_page_says(planned, name):
    assert printed(name) in planned


@pytest.mark.workflow
def test_the_layouts_are_those_of_the_readme():
    """The patterns of both pages are the same."""
    readme = (ROOT / "config/README.md").read_text()
    for name in ("HCP", "IXI", "OASIS-3"):
        (block,) = (block for block in SECTIONS[name] if block.language == "yaml")
        for pattern in re.findall(r"/data/\S+", block.text):
            assert pattern in readme


@pytest.mark.slow
def test_the_scans_are_counted_as_they_were_found(study, planned):
    snakemake(study, "--cores", "2", "results/intake.tsv")
    table = pd.read_csv(study / "results/intake.tsv", sep="\t", dtype=str).query("code == 'found'")
    said = dict(re.findall(r"^(\w+): found (\d+) scans", planned, re.M))
    assert len(said) == 6
    assert dict(zip(table["dataset"], table["scans"], strict=True)) == said
    images = list((study / "results/preprocess").rglob("*.nii.gz"))
    assert len(images) > 30
    for path in (*images, *(study / "results").glob("quality/*.tsv")):
        content = path.read_bytes()
        assert SECRET.encode() not in (gzip.decompress(content) if path.suffix == ".gz" else content), path
