"""One training on two nodes of a real Slurm: run it by ``make test-slurm``.

The nodes are two ``slurmd`` of the same machine, with names, ports and feigned GPUs of their own; their processes meet
under the first one's name, as on a cluster, by a network that is the machine's own.
"""

# ruff: noqa: F401, F811 (fixtures come by import)
import os
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import load_file
from test_slurm import (
    SNAKEMAKE,
    WEIGHTS,
    assert_same,
    begin_training,
    cost_of,
    fail,
    finish,
    log_of,
    name_of,
    pytestmark,
    repository,
    running,
    starts,
    states,
    study,
    told,
    train_patiently,
    wait_for,
)

from miniature import write

SWIN_MAE = {"class": "swin_mae.SwinMAE", "params": {"width": 12, "heads": [2, 4], "unit": 8}, "epochs": 3}


@pytest.fixture
def on_two_nodes(train_patiently):
    """Prepare the study for one GPU of each node."""
    if reason := os.environ.get("BRAINUAD_NO_PAIR"):
        pytest.skip(reason)
    return lambda **changes: train_patiently(training={"nodes": 2}, gpu_model="p100", slurm_partition="pair", **changes)


def test_two_nodes_learn_what_one_process_does(on_two_nodes, repository, tmp_path):
    study, here = on_two_nodes(), tmp_path / "here"
    config = yaml.safe_load((study / "config/config.yaml").read_text())
    config["models"]["patient"] = {**SWIN_MAE, "batch_size": 3, "lr": 1e-3}  # a model that draws, in unequal shares
    write(study, config)
    shutil.copytree(study, here)
    write(here, config | {"training": config["training"] | {"nodes": 1}})
    run = begin_training(study, repository)
    command = [SNAKEMAKE, "--directory", here, "--cores", "1", "--allowed-rules", "train", "--", WEIGHTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=repository)
    assert done.returncode == 0, done.stderr
    finish(run, study)
    shared, alone = ((folder / WEIGHTS).parent for folder in (study, here))
    histories = [pd.read_csv(folder / "history.tsv", sep="\t").drop(columns="seconds") for folder in (shared, alone)]
    np.testing.assert_allclose(*histories, rtol=1e-5)
    weights = [load_file(folder / "model.safetensors") for folder in (shared, alone)]
    for name, value in weights[1].items():
        np.testing.assert_allclose(weights[0][name], value, rtol=0, atol=1e-3)  # three times the learning rate of Adam
    assert yaml.safe_load((shared / "cost.json").read_text())["processes"] == 2
    columns = ["--noheader", "--allocations", "--parsable2", "--format=NodeList"]
    states(name_of(study))  # until the accounting knows its end
    assert told("sacct", *columns, f"--name={name_of(study)}").strip() == "pair[1-2]"


def test_a_training_outlives_the_failure_of_one_of_its_nodes(on_two_nodes, assert_same, repository):
    study = on_two_nodes()
    run = begin_training(study, repository)
    job, checkpoint = running(study), (study / WEIGHTS).with_name("checkpoint.pt")
    fail("pair2", job)
    saved = checkpoint.stat().st_mtime_ns
    wait_for(lambda: checkpoint.stat().st_mtime_ns > saved)
    finish(run, study)
    assert_same(tolerance=1e-5)
    assert states(name_of(study)) == ["NODE_FAIL", "COMPLETED"]


def test_a_training_on_two_nodes_outlives_its_walltime(on_two_nodes, assert_same, repository):
    study = on_two_nodes(seconds=4.0, runtime=2)  # 32 steps: 128 s at least
    finish(begin_training(study, repository), study)
    assert_same(tolerance=1e-6)
    assert starts(study) >= 2
    assert cost_of(study)["processes"] == 2
    assert "saved on request" in log_of(study)
