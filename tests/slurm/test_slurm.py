"""The workflow on a real Slurm of one node, with the profile that is shipped: run it by ``make test-slurm``.

Only what a cluster decides is overridden: how often jobs are asked after, and which GPUs there are.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from miniature import ROOT, miniature

REASON = os.environ.get("BRAINUAD_NO_SLURM") or ("SLURM_CONF" not in os.environ and "no Slurm: run make test-slurm")
pytestmark = pytest.mark.skipif(bool(REASON), reason=str(REASON))

SNAKEMAKE = Path(sys.executable).parent / "snakemake"
SOON = ("--slurm-init-seconds-before-status-checks", "3", "--max-status-checks-per-second", "1", "--latency-wait", "5")

RULES = '''

rule hungry:
    output:
        "results/hungry.txt",
    resources:
        mem_mb=scaled(400),
        runtime=scaled(5),
    shell:
        """
        {python} -c 'import time; block = b"x" * 500_000_000; time.sleep(8)'
        echo {{resources.mem_mb}} > {{output}}
        """


rule patient:
    output:
        "results/patient.txt",
    shell:
        "sleep 15 && touch {{output}}"
'''


def begin(study, *arguments, root=ROOT):
    """Start a run as the documentation says, from the root of the repository; what it prints goes to a file."""
    command = [SNAKEMAKE, "--profile", "slurm", "--directory", study, *SOON, *map(str, arguments)]
    with (study / "printed.txt").open("a") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, cwd=root)


def finish(run, study, expect=0):
    """Wait for the end of a run; returns what it printed."""
    code = run.wait(timeout=900)
    printed = (study / "printed.txt").read_text()
    assert (code == 0) == (expect == 0), printed[-6000:]
    return printed


@pytest.fixture
def repository(tmp_path):
    """A copy of the repository that a test may add rules and models to."""
    copy = tmp_path / "repository"
    for name in ("rules", "scripts", "envs", "config", "resources", "profiles"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "slurm", copy, follow_symlinks=False)
    (copy / "Snakefile").write_text((ROOT / "Snakefile").read_text() + RULES.format(python=sys.executable))
    return copy


@pytest.fixture
def study(tmp_path):
    """The folder of a miniature study in which nothing has been run."""
    miniature(tmp_path / "study")
    return tmp_path / "study"


def is_a_cost(column):
    """Time and memory differ between any two runs; all else is the same, bit for bit."""
    return column.startswith("cost/") or column == "seconds"


def test_a_study_on_slurm_gives_the_comparison_of_one_run_here(study, tmp_path):
    here = tmp_path / "here"
    shutil.copytree(study, here)
    on_slurm = begin(study)
    command = [SNAKEMAKE, "--directory", here, "--cores", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    finish(on_slurm, study)
    for name in ("table2.csv", "table2.md", "train/vqvae/1/model.safetensors", "score/vqvae/1/phantom_a/map.npy"):
        assert (study / "results" / name).read_bytes() == (here / "results" / name).read_bytes(), name
    for name in ("comparison.tsv", "quality/phantom_a.tsv", "quality/phantom_b.tsv"):
        tables = [pd.read_csv(folder / "results" / name, sep="\t") for folder in (study, here)]
        numbers = [table[[column for column in table if not is_a_cost(column)]] for table in tables]
        pd.testing.assert_frame_equal(*numbers, check_exact=True)
    assert len(pd.read_csv(study / "results/costs.tsv", sep="\t")) == 10


def test_a_job_without_enough_memory_gets_more_on_the_second_try(study, repository):
    printed = finish(begin(study, "results/hungry.txt", root=repository), study)
    assert (study / "results/hungry.txt").read_text().split() == ["800"]
    assert "Trying to restart job" in printed
    assert "exceeded memory limit" in printed


def test_a_run_outlives_an_accounting_database_that_is_down(study, repository):
    run = begin(study, "--verbose", "results/patient.txt", root=repository)
    time.sleep(12)
    folder = Path(os.environ["SLURM_CONF"]).parent
    os.kill(int((folder / "slurmdbd.pid").read_text()), signal.SIGTERM)
    time.sleep(25)
    assert run.poll() is None
    with (folder / "slurmdbd-again.log").open("w") as log:
        subprocess.Popen(["slurmdbd", "-D"], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    assert "could not check status of job" in finish(run, study)
    assert (study / "results/patient.txt").exists()
