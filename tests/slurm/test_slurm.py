"""The workflow on a real Slurm of one node, with the profile that is shipped: run it by ``make test-slurm``.

Only what a cluster decides is overridden in the profile: how often jobs are asked after, which GPUs there are, memory
and walltime. All tests share the Slurm and the machine, and run at once.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml
from safetensors.numpy import load_file

from conftest import ROOT
from miniature import miniature, write

REASON = os.environ.get("BRAINUAD_NO_SLURM", "needs a Slurm of its own: run make test-slurm")
pytestmark = pytest.mark.skipif("BRAINUAD_TEST_SLURM" not in os.environ, reason=REASON)

SNAKEMAKE = Path(sys.executable).parent / "snakemake"
WEIGHTS = "results/train/patient/1/model.safetensors"
SOON = {
    "slurm-init-seconds-before-status-checks": 3,
    "max-status-checks-per-second": 1,
    "latency-wait": 5,
}
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


rule waiting:
    output:
        "results/waiting.txt",
    shell:
        "sleep 15 && touch {{output}}"
'''


@pytest.fixture
def repository(tmp_path):
    """A copy of the repository with two more rules and one more model, for a cluster that answers soon."""
    copy = tmp_path / "repository"
    for name in ("rules", "scripts", "envs", "config", "resources", "profiles"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "slurm", copy, follow_symlinks=False)
    shutil.copy2(Path(__file__).with_name("patient.py"), copy / "scripts/brainuad/models")
    (copy / "Snakefile").write_text((ROOT / "Snakefile").read_text() + RULES.format(python=sys.executable))
    change_profile(copy, {}, **SOON)
    return copy


def change_profile(repository, train, **options):
    """Override options of the shipped profile, and resources of rule train."""
    path = repository / "profiles/slurm/config.yaml"
    profile = {**yaml.safe_load(path.read_text()), **options}
    profile["set-resources"]["train"].update({"poll_seconds": 2, **train})
    profile["set-resources"]["score"]["gpu_model"] = "t4"  # of which there are more
    path.write_text(yaml.safe_dump(profile))


@pytest.fixture
def study(tmp_path):
    """The folder of a study of one model, Patient, in which nothing has been run."""
    config = yaml.safe_load((ROOT / "demo/config/config.yaml").read_text())
    config["datasets"] = {"phantom_a": config["datasets"]["phantom_a"]}
    config["models"] = {"patient": {"class": "patient.Patient", "epochs": 8, "batch_size": 2}}
    write(tmp_path / "study", config)
    return tmp_path / "study"


@pytest.fixture
def train_patiently(study, make_sample_set, repository):
    """Prepare the study: its samples are there already, a step of the training takes a second; returns its folder."""
    make_sample_set("study/results/samples/phantom_a", size=(48, 48))  # 8 for training: 4 steps an epoch

    def prepare(epochs=8, seconds=1.0, fail=False, **resources):
        config = yaml.safe_load((study / "config/config.yaml").read_text())
        config["models"]["patient"] |= {"epochs": epochs, "params": {"seconds": seconds, "fail": fail}}
        write(study, config)
        change_profile(repository, {"mem_mb": 3000, "cpus_per_task": 1, **resources})
        return study

    return prepare


@pytest.fixture
def assert_same(study, repository, tmp_path_factory):
    """Compare the weights of the study with those of one whose training ran here at one go, without pauses."""

    def compare(epochs=8):
        folder = tmp_path_factory.getbasetemp().parent / f"uninterrupted-{epochs}"  # all test processes share it
        folder.mkdir(exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / WEIGHTS).exists():
                shutil.copytree(study / "results/samples", folder / "results/samples")
                config = yaml.safe_load((study / "config/config.yaml").read_text())
                config["models"]["patient"]["params"]["seconds"] = 0.0
                write(folder, config)
                command = [SNAKEMAKE, "--directory", folder, "--cores", "1", "--allowed-rules", "train", "--", WEIGHTS]
                done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=repository)
                assert done.returncode == 0, done.stderr
        weights, found = load_file(folder / WEIGHTS), load_file(study / WEIGHTS)
        assert found.keys() == weights.keys()
        assert all((found[name] == weights[name]).all() for name in weights)

    return compare


def begin(study, repository, *targets, options=(), nice=0):
    """Start a run as the documentation says, from the root of the repository; what it prints goes to a file."""
    command = ["nice", "-n", str(nice), SNAKEMAKE, "--profile", "slurm", "--directory", study, *options, "--", *targets]
    with (study / "printed.txt").open("a") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, cwd=repository, start_new_session=True)


def begin_training(study, repository):
    """Start the training of a study whose samples are there."""
    return begin(study, repository, WEIGHTS, options=("--allowed-rules", "train"))


def finish(run, study, succeeds=True):
    """Wait for the end of a run; returns what it printed."""
    code = run.wait(timeout=900)
    printed = (study / "printed.txt").read_text()
    assert (code == 0) == succeeds, printed[-6000:]
    return printed


def wait_for(what, seconds=300):
    """Wait until a question is answered by something true; returns that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := what():
            return answer
        time.sleep(0.5)
    raise AssertionError(f"{what} never came true")


def running(study):
    """Wait until a training is past its first checkpoint; returns the number of its job."""
    wait_for((study / WEIGHTS).with_name("checkpoint.pt").exists)
    return job_of(study)


def job_of(study):
    """The number of a training's job."""
    return yaml.safe_load((study / WEIGHTS).with_name("submitit").joinpath("job.json").read_text())["record"]["job_id"]


def told(*command):
    """What a command of Slurm prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def name_of(job):
    """Name of a job, which every job of the same training has."""
    return told("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%j").strip()


def states(name):
    """All that the accounting knows of the jobs of a name: state of each, requeued ones once for every start."""
    time.sleep(2)  # slurmctld tells slurmdbd now and then
    lines = told("sacct", "--noheader", "--allocations", "--duplicates", "--parsable2", f"--name={name}", "-o", "State")
    return [line.split()[0] for line in lines.splitlines()]


def is_a_cost(column):
    """Time and memory differ between any two runs; all else is the same, bit for bit."""
    return column.startswith("cost/") or column == "seconds"


def test_a_training_outlives_its_walltime_twice(train_patiently, assert_same, repository):
    study = train_patiently(epochs=22, gpu_model="t4", runtime=1)
    finish(begin_training(study, repository), study)
    assert_same(epochs=22)
    cost = yaml.safe_load((study / WEIGHTS).with_name("cost.json").read_text())
    assert cost["starts"] >= 3


def test_a_preempted_training_goes_on_when_its_gpu_is_free_again(train_patiently, assert_same, repository):
    study = train_patiently(gpu_model="a100", slurm_partition="spare")
    run = begin_training(study, repository)
    name = name_of(running(study))
    told("sbatch", "--partition=urgent", "--gres=gpu:a100:1", "--output=/dev/null", "--wrap", "sleep 3")
    finish(run, study)
    assert_same()
    assert states(name) == ["PREEMPTED", "COMPLETED"]


def test_a_training_that_is_killed_is_submitted_again(train_patiently, assert_same, repository):
    study = train_patiently(gpu_model="t4")
    run = begin_training(study, repository)
    job = running(study)
    name = name_of(job)
    processes_of(job)[0].kill()
    assert f"{job} was lost" in finish(run, study)
    assert_same()
    assert states(name) == ["FAILED", "COMPLETED"]


def processes_of(job):
    """The training processes of a job."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words, environment = process.info["cmdline"] or [], process.info["environ"] or {}
        ours = environment.get("SLURM_CONF") == os.environ["SLURM_CONF"] and environment.get("SLURM_JOB_ID") == job
        if ours and "submitit.core._submit" in words and "SLURM_PROCID" in environment:
            found.append(process)
    return found


def test_snakemake_killed_and_started_again_finds_the_job_that_runs(train_patiently, assert_same, repository):
    study = train_patiently(gpu_model="t4", seconds=1.5)
    run = begin_training(study, repository)
    name = name_of(running(study))
    run.kill()
    run.wait()
    subprocess.run([SNAKEMAKE, "--directory", study, "--unlock"], check=True, cwd=repository, capture_output=True)
    run = begin_training(study, repository)
    wait_for(lambda: "found again" in (study / "printed.txt").read_text())
    assert len(told("squeue", "--noheader", f"--name={name}").splitlines()) == 1
    finish(run, study)
    assert_same()
    assert states(name) == ["COMPLETED"]


def test_a_training_goes_on_when_snakemake_is_interrupted(train_patiently, repository):
    study = train_patiently(gpu_model="t4", seconds=5.0)
    run = begin_training(study, repository)
    job = running(study)
    os.killpg(run.pid, signal.SIGINT)  # as Ctrl-C does
    assert f"Slurm job {job} goes on" in finish(run, study, succeeds=False)
    assert told("squeue", "--noheader", f"--jobs={job}", "--format=%T").strip() == "RUNNING"
    told("scancel", job)


def test_a_training_that_fails_shows_its_traceback_and_is_not_submitted_again(train_patiently, repository):
    study = train_patiently(fail=True, gpu_model="t4")
    printed = finish(begin_training(study, repository), study, succeeds=False)
    for words in ("Traceback", "patient.py", "ArithmeticError: this loss cannot be computed", "_0_log.out"):
        assert words in printed
    assert len(states(name_of(job_of(study)))) == 1


def test_a_training_that_its_user_cancels_stays_cancelled(train_patiently, repository):
    study = train_patiently(gpu_model="t4", seconds=5.0)
    run = begin_training(study, repository)
    job = running(study)
    name = name_of(job)
    told("scancel", job)
    assert "was cancelled" in finish(run, study, succeeds=False)
    assert states(name) == ["CANCELLED"]


def test_a_study_on_slurm_gives_the_comparison_of_one_run_here(tmp_path, repository):
    study, here = tmp_path / "study", tmp_path / "here"
    miniature(study)
    shutil.copytree(study, here)
    change_profile(repository, {"mem_mb": 3000, "cpus_per_task": 2})  # threads decide the rounding
    on_slurm = begin(study, repository, nice=5)
    command = ["nice", "-n", "5", SNAKEMAKE, "--directory", here, "--cores", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=repository)
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
    printed = finish(begin(study, repository, "results/hungry.txt"), study)
    assert "exceeded memory limit" in printed
    assert "Trying to restart job" in printed
    assert (study / "results/hungry.txt").read_text().split() == ["800"]


def test_a_run_outlives_an_accounting_database_that_is_down(study, repository):
    run = begin(study, repository, "results/waiting.txt", options=("--verbose",))
    time.sleep(12)
    folder = Path(os.environ["SLURM_CONF"]).parent
    os.kill(int((folder / "slurmdbd.pid").read_text()), signal.SIGTERM)
    time.sleep(25)
    assert run.poll() is None
    with (folder / "slurmdbd-again.log").open("w") as log:
        subprocess.Popen(["slurmdbd", "-D"], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    assert "could not check status of job" in finish(run, study)
    assert (study / "results/waiting.txt").exists()
