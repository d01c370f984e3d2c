"""The workflow on a real Slurm of one node, with the profile that is shipped: run it by ``make test-slurm``.

Only what a cluster decides is overridden in the profile: how often jobs are asked after, which GPUs there are, memory
and walltime. All tests share the Slurm and the machine, and run at once.
"""

import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from safetensors.numpy import load_file

from miniature import copy_repository, miniature, patient, write

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
    copy = copy_repository(tmp_path / "repository")
    with (copy / "Snakefile").open("a") as file:
        file.write(RULES.format(python=sys.executable))
    change_profile(copy, {}, **SOON)
    return copy


def change_profile(repository, train, defaults=(), **options):
    """Override options of the shipped profile, resources of rule train and those of all other rules."""
    path = repository / "profiles/slurm/config.yaml"
    profile = {**yaml.safe_load(path.read_text()), **options}
    profile["set-resources"]["train"].update({"poll_seconds": 2, **train})
    profile["default-resources"] |= dict(defaults)
    profile["set-resources"]["score"]["gpu_model"] = "t4"  # of which there are more
    path.write_text(yaml.safe_dump(profile))


@pytest.fixture
def study(tmp_path):
    """The folder of a study of one model, Patient, in which nothing has been run."""
    patient(tmp_path / "study")
    return tmp_path / "study"


@pytest.fixture
def train_patiently(study, make_sample_set, repository):
    """Prepare the study: its samples are there already, a step of the training takes a second; returns its folder."""
    make_sample_set("study/results/samples/phantom_a", size=(48, 48))  # 8 for training: 4 steps an epoch
    (study / "results/intake.tsv").touch()  # which a training asks for as well

    def prepare(epochs=8, training=(), seconds=1.0, fail=False, megabytes=0, **resources):
        config = yaml.safe_load((study / "config/config.yaml").read_text())
        params = {"seconds": seconds, "fail": fail, "megabytes": megabytes}
        config["models"]["patient"] |= {"epochs": epochs, "params": params}
        config["training"] |= dict(training)
        write(study, config)
        change_profile(repository, {"mem_mb": 3000, "cpus_per_task": 1, **resources})
        return study

    return prepare


@pytest.fixture
def assert_same(study, repository, tmp_path_factory):
    """Compare the weights of the study with those of one whose training ran here at one go, without pauses."""

    def compare(epochs=8, tolerance=0.0):
        folder = tmp_path_factory.getbasetemp().parent / f"uninterrupted-{epochs}"  # all test processes share it
        folder.mkdir(exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / WEIGHTS).exists():
                shutil.copytree(study / "results/samples", folder / "results/samples")
                shutil.copy(study / "results/intake.tsv", folder / "results")
                config = yaml.safe_load((study / "config/config.yaml").read_text())
                config["models"]["patient"]["params"] |= {"seconds": 0.0, "megabytes": 0}
                config["training"] |= {"gpus": 1, "nodes": 1}
                write(folder, config)
                command = [SNAKEMAKE, "--directory", folder, "--cores", "1", "--allowed-rules", "train", "--", WEIGHTS]
                done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=repository)
                assert done.returncode == 0, done.stderr
        weights, found = load_file(folder / WEIGHTS), load_file(study / WEIGHTS)
        assert found.keys() == weights.keys()
        for name in weights:
            np.testing.assert_allclose(found[name], weights[name], rtol=0, atol=tolerance)

    return compare


def begin(study, repository, *targets, options=(), nice=0):
    """Start a run as the documentation says, from the root of the repository; what it prints goes to a file."""
    command = ["nice", "-n", str(nice), SNAKEMAKE, "--profile", "slurm", "--directory", study, *options, "--", *targets]
    with (study / "printed.txt").open("a") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, cwd=repository, start_new_session=True)


def begin_training(study, repository, *targets, options=()):
    """Start the training of a study whose samples are there."""
    return begin(study, repository, *(targets or [WEIGHTS]), options=("--allowed-rules", "train", *options))


def kill(run, study, repository):
    """End a run as a crash does, and lift the lock that it leaves."""
    run.kill()
    run.wait()
    subprocess.run([SNAKEMAKE, "--directory", study, "--unlock"], check=True, cwd=repository, capture_output=True)


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
    return recorded(study)["record"]["job_id"]


def recorded(study, file="job.json", model="patient", seed=1):
    """What is on record of a training: its job, or, in ``starts.json``, its starts without a checkpoint."""
    path = study / f"results/train/{model}/{seed}/submitit" / file
    return yaml.safe_load(path.read_text()) if path.exists() else None


def starts(study):
    """How often the training was begun, by what it carried on from start to start: one that begins anew has one."""
    return cost_of(study)["starts"]


def cost_of(study):
    """What the training took."""
    return yaml.safe_load((study / WEIGHTS).with_name("cost.json").read_text())


def log_of(study):
    """What the training has printed in all its starts."""
    paths = (study / WEIGHTS).with_name("submitit").glob("*_0_log.out")
    return "".join(path.read_text() for path in sorted(paths, key=lambda path: path.stat().st_mtime))


def times(*names):
    """When the jobs of these names began and when they ended, of each its last start."""
    states(",".join(names))  # until the accounting knows all ends
    columns = ["--noheader", "--allocations", "--parsable2", "--format=Start,End"]
    lines = told("sacct", *columns, f"--name={','.join(names)}").splitlines()
    return sorted(tuple(map(pd.Timestamp, line.split("|"))) for line in lines)


def name_of(study):
    """Name of the training's job, which every job of the same training has."""
    return wait_for(lambda: recorded(study))["name"]


def told(*command):
    """What a command of Slurm prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def states(name):
    """All that the accounting knows of the ended jobs of a name: a state each, requeued ones once for every start."""
    command = ["sacct", "--noheader", "--allocations", "--duplicates", "--parsable2", f"--name={name}", "-o", "State"]

    def ended():  # slurmctld tells slurmdbd now and then, and a test stops slurmdbd for a while
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = [line.split()[0] for line in done.stdout.splitlines()]
        return found if not {"PENDING", "RUNNING", "COMPLETING"} & set(found) else None

    time.sleep(2)
    return wait_for(ended, seconds=90)


def state_of(job):
    """State of a job in the queue; empty when it has left it."""
    command = ["squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def fail(node, job):
    """Let a node fail, and be repaired when its job has been requeued."""
    told("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    wait_for(lambda: state_of(job) == "PENDING")
    # Where the job is still being ended a new start of it would fail, and Slurm would hold it.
    wait_for(lambda: not any(f"[{job}." in " ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])))
    told("scontrol", "update", f"nodename={node}", "state=resume")


def is_a_cost(column):
    """Time and memory differ between any two runs; all else is the same, bit for bit."""
    return column.startswith("cost/") or column == "seconds"


def test_a_training_outlives_its_walltime_twice(train_patiently, assert_same, repository):
    study = train_patiently(epochs=22, gpu_model="t4", runtime=1)
    finish(begin_training(study, repository), study)
    assert_same(epochs=22)
    assert starts(study) >= 3
    assert log_of(study).count("saved on request") >= 2


def test_a_preempted_training_goes_on_when_its_gpu_is_free_again(train_patiently, assert_same, repository):
    study = train_patiently(gpu_model="a100", slurm_partition="spare")
    run = begin_training(study, repository)
    running(study)
    name = name_of(study)
    told("sbatch", "--partition=urgent", "--gres=gpu:a100:1", "--output=/dev/null", "--wrap", "sleep 3")
    finish(run, study)
    assert_same()
    assert states(name) == ["PREEMPTED", "COMPLETED"]
    assert starts(study) == 2
    wait_for(lambda: "saved on request" in log_of(study), 60)


def test_a_training_that_is_cancelled_for_another_job_is_submitted_again(train_patiently, assert_same, repository):
    study = train_patiently(gpu_model="l4", slurm_partition="fleeting")
    run = begin_training(study, repository)
    job = running(study)
    name = name_of(study)
    told("sbatch", "--partition=urgent", "--gres=gpu:l4:1", "--output=/dev/null", "--wrap", "sleep 3")
    assert f"{job} was lost (PREEMPTED): another takes its place" in finish(run, study)
    assert_same()
    assert states(name) == ["PREEMPTED", "COMPLETED"]
    assert starts(study) == 2
    wait_for(lambda: "saved on request" in log_of(study), 60)


def test_a_training_that_is_killed_is_submitted_again(train_patiently, assert_same, repository):
    study = train_patiently(gpu_model="t4")
    run = begin_training(study, repository)
    job = running(study)
    name = name_of(study)
    processes_of(job)[0].kill()
    assert f"{job} was lost" in finish(run, study)
    assert_same()
    assert states(name) == ["FAILED", "COMPLETED"]
    assert starts(study) == 2
    assert "training goes on after epoch" in log_of(study)


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
    running(study)
    name = name_of(study)
    kill(run, study, repository)
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
    assert len(states(name_of(study))) == 1


def test_a_training_that_its_user_cancels_stays_cancelled(train_patiently, repository):
    study = train_patiently(gpu_model="t4", seconds=2.0)
    run = begin_training(study, repository)
    job = running(study)
    name = name_of(study)
    told("scancel", job)
    assert "was cancelled" in finish(run, study, succeeds=False)
    assert states(name) == ["CANCELLED"]
    wait_for(lambda: "saved on request" in log_of(study), 60)


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
    same = ["table2.*", "strict.*", "numbers.tsv", "significance.tsv", "ranks.tsv", "thresholds/*/*.tsv"]
    same += ["response/*/*/*.tsv", "metrics/*/*/*.tsv", "train/*/*/model.safetensors", "score/*/*/*/*.npy"]
    for pattern in same:
        paths = [path.relative_to(here) for path in (here / "results").glob(pattern)]
        assert paths, pattern
        for path in paths:
            assert (study / path).read_bytes() == (here / path).read_bytes(), path
    for name in ("comparison.tsv", "quality/phantom_a.tsv", "quality/phantom_b.tsv"):
        tables = [pd.read_csv(folder / "results" / name, sep="\t") for folder in (study, here)]
        numbers = [table[[column for column in table if not is_a_cost(column)]] for table in tables]
        pd.testing.assert_frame_equal(*numbers, check_exact=True)
    recorded = {path.name.removesuffix(".tsv") for path in (study / "results/benchmarks").iterdir()}
    costs = pd.read_csv(study / "results/costs.tsv", sep="\t")
    assert set(costs["rule"]) == recorded - {"costs", "report"}
    # Each rule was a job of Slurm: of the executor, alone or in the group of its model, or a training's own.
    printed = (study / "printed.txt").read_text()
    submitted = re.findall(r"submitted with SLURM jobid \d+ \(log: \S+/results/logs/slurm/(rule|group)_(\w+)/", printed)
    groups = {"score": "score", "measure": "metrics_response_thresholds"}
    together = {f"{group}_{model}_1_{rules}" for group, rules in groups.items() for model in ("vqvae", "voxel_z")}
    assert {name for kind, name in submitted if kind == "group"} == together
    alone = {name for kind, name in submitted if kind == "rule"}
    assert alone == recorded - {"train", *"_".join(groups.values()).split("_")}
    assert len(re.findall(r"Slurm job \d+ has trained", printed)) == 2


def test_a_job_without_enough_memory_gets_more_on_the_second_try(study, repository):
    printed = finish(begin(study, repository, "results/hungry.txt"), study)
    assert "exceeded memory limit" in printed
    assert "Trying to restart job" in printed
    assert (study / "results/hungry.txt").read_text().split() == ["800"]


def test_runs_outlive_an_accounting_database_that_is_down(tmp_path, study, repository, monkeypatch):
    """Jobs are submitted meanwhile, too, whether their account comes by the profile or by the environment."""
    by_profile, by_environment = tmp_path / "by_profile", tmp_path / "by_environment"
    for folder in (by_profile, by_environment):
        patient(folder)
    runs = {study: begin(study, repository, "results/waiting.txt", options=("--verbose",))}
    wait_for(lambda: number_of_job(study))
    slurm = Path(os.environ["SLURM_CONF"]).parent
    os.kill(int((slurm / "slurmdbd.pid").read_text()), signal.SIGTERM)
    up_again = time.monotonic() + 25
    try:
        resources = yaml.safe_load((repository / "profiles/slurm/config.yaml").read_text())["default-resources"]
        given = [f"{name}={value}" for name, value in (resources | {"slurm_account": "project"}).items()]
        runs[by_profile] = begin(by_profile, repository, "results/waiting.txt", options=("--default-resources", *given))
        monkeypatch.setenv("SBATCH_ACCOUNT", "project")
        runs[by_environment] = begin(by_environment, repository, "results/waiting.txt")
        numbers = [wait_for(lambda folder=folder: number_of_job(folder)) for folder in (by_profile, by_environment)]
        time.sleep(max(0, up_again - time.monotonic()))
        assert all(run.poll() is None for run in runs.values())
    finally:  # the other tests ask it, too
        with (slurm / "slurmdbd-again.log").open("w") as log:
            subprocess.Popen(["slurmdbd", "-D"], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    for folder, run in runs.items():
        finish(run, folder)
        assert (folder / "results/waiting.txt").exists()
    assert "could not check status of job" in (study / "printed.txt").read_text()
    columns = ["--noheader", "--allocations", "--parsable2", "--format=Account"]
    assert told("sacct", *columns, f"--jobs={','.join(numbers)}").split() == ["project", "project"]


def number_of_job(study):
    """Number of the first job that the executor has submitted; empty until it has."""
    return "".join(re.findall(r"submitted with SLURM jobid (\d+)", (study / "printed.txt").read_text())[:1])


def test_a_training_outlives_the_failures_of_its_node(train_patiently, assert_same, repository):
    study = train_patiently(gpu_model="k80", slurm_partition="frail1")
    run = begin_training(study, repository)
    job, checkpoint = running(study), (study / WEIGHTS).with_name("checkpoint.pt")
    for _ in range(2):
        fail("frail1", job)
        saved = checkpoint.stat().st_mtime_ns
        wait_for(lambda saved=saved: checkpoint.stat().st_mtime_ns > saved)
    finish(run, study)
    assert_same()
    assert states(name_of(study)) == ["NODE_FAIL", "NODE_FAIL", "COMPLETED"]
    assert starts(study) == 3


def test_a_training_whose_node_fails_at_every_start_is_given_up(train_patiently, repository):
    study = train_patiently(gpu_model="k80", slurm_partition="frail2", seconds=600.0)
    run = begin_training(study, repository)
    for start in range(1, 4):
        wait_for(lambda start=start: len((recorded(study, "starts.json") or {"starts": []})["starts"]) == start)
        fail("frail2", recorded(study)["record"]["job_id"])
    printed = finish(run, study, succeeds=False)
    assert "started 3 times in a row without getting further than its beginning" in printed
    assert "--exclude=frail2" in printed
    *failures, last = states(name_of(study))
    assert failures == ["NODE_FAIL"] * 3
    assert last in ("FAILED", "CANCELLED")  # the launcher ends what is left of a job that failed


def test_a_training_without_enough_memory_gets_more_on_the_second_try(train_patiently, assert_same, repository):
    """Slurm's own accounting ends the step, as there are no cgroups, whose words are not seen here."""
    study = train_patiently(epochs=2, seconds=3.0, megabytes=1200, mem_mb=1200, gpu_model="t4")
    printed = finish(begin_training(study, repository), study)
    assert "needs more than 1200 MB: it gets twice that" in printed
    assert_same(epochs=2)
    assert states(name_of(study))[-1] == "COMPLETED"


def test_an_end_that_only_the_accounting_remembers_is_understood(train_patiently, repository):
    study = train_patiently(gpu_model="t4", seconds=5.0)
    run = begin_training(study, repository)
    job = running(study)
    asleep = psutil.Process(run.pid).children(recursive=True)  # the launcher is among them
    for process in asleep:
        process.suspend()
    told("scancel", job)
    wait_for(lambda: state_of(job) == "")
    for process in asleep:
        process.resume()
    assert f"Slurm job {job} of {WEIGHTS.rpartition('/')[0]} was cancelled" in finish(run, study, succeeds=False)


def test_a_result_that_a_killed_snakemake_did_not_note_is_taken_once_and_trained_anew_by_force(
    train_patiently, assert_same, repository
):
    study = train_patiently(gpu_model="t4")
    run = begin_training(study, repository)
    running(study)
    os.kill(run.pid, signal.SIGSTOP)  # the launcher goes on, but nobody notes what it did
    wait_for(lambda: "has trained" in (study / "printed.txt").read_text())
    kill(run, study, repository)
    assert "has finished" in finish(begin_training(study, repository), study)
    assert_same()
    assert states(name_of(study)) == ["COMPLETED"]
    finish(begin_training(study, repository, options=("--forcerun", "train")), study)
    assert states(name_of(study)) == ["COMPLETED", "COMPLETED"]


def test_two_processes_of_a_job_train_together(train_patiently, assert_same, repository):
    study = train_patiently(epochs=2, training={"gpus": 2}, gpu_model="t4")
    finish(begin_training(study, repository), study)
    assert_same(epochs=2, tolerance=1e-6)
    assert cost_of(study)["processes"] == 2
    logs = (study / WEIGHTS).with_name("submitit").glob("*_log.out")
    assert [path.name.split("_")[1] for path in sorted(logs)] == ["0", "1"]


def test_processes_that_train_together_outlive_their_walltime(train_patiently, assert_same, repository):
    study = train_patiently(seconds=4.0, training={"gpus": 2}, gpu_model="t4", runtime=2)  # 32 steps: 128 s at least
    finish(begin_training(study, repository), study)
    assert_same(tolerance=1e-6)
    assert starts(study) >= 2
    assert cost_of(study)["processes"] == 2
    wait_for(lambda: "saved on request" in log_of(study), 60)


def test_quality_of_service_and_other_options_reach_trainings_and_rules(train_patiently, repository):
    study = train_patiently(gpu_model="t4", slurm_extra="--nice=7")
    change_profile(repository, {}, defaults={"qos": "long", "slurm_extra": "--nice=8"})
    run = begin_training(study, repository, WEIGHTS, "results/waiting.txt", options=("waiting",))
    waiting = wait_for(lambda: number_of_job(study))
    for job, asked in ((running(study), "long|7"), (waiting, "long|8")):
        assert told("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%q|%y").split() == [asked]
    finish(run, study)


def test_at_most_as_many_gpus_are_used_as_the_user_allows(train_patiently, repository):
    """An ended job holds its GPU for some seconds, in which its processes are gone already."""
    study = train_patiently(epochs=2, seconds=2.0, training={"seeds": [1, 2]}, gpu_model="t4")
    targets = [WEIGHTS, WEIGHTS.replace("/1/", "/2/")]
    finish(begin_training(study, repository, *targets, options=("--resources", "gpu=1")), study)
    (_, first_ended), (second_began, _) = times(*(recorded(study, seed=seed)["name"] for seed in (1, 2)))
    assert second_began > first_ended - pd.Timedelta(seconds=5)


def test_models_and_seeds_train_at_the_same_time(train_patiently, repository):
    study = train_patiently(epochs=2, seconds=4.0, training={"seeds": [1, 2]}, gpu_model="t4")
    config = yaml.safe_load((study / "config/config.yaml").read_text())
    config["models"]["other"] = config["models"]["patient"]
    write(study, config)
    runs = [(model, seed) for model in config["models"] for seed in (1, 2)]
    targets = [WEIGHTS.replace("patient/1", f"{model}/{seed}") for model, seed in runs]
    finish(begin_training(study, repository, *targets), study)
    at_work = times(*(recorded(study, model=model, seed=seed)["name"] for model, seed in runs))
    assert len(at_work) == 4
    assert max(began for began, _ in at_work) < min(ended for _, ended in at_work)


def test_a_training_waits_for_room_where_slurm_takes_no_more_jobs(train_patiently, repository):
    study = train_patiently(epochs=2, seconds=0.0, gpu_model="t4", qos="narrow")
    fill = told("sbatch", "--parsable", "--qos=narrow", "--output=/dev/null", "--wrap", "sleep 600").strip()
    run = begin_training(study, repository)
    wait_for(lambda: "Slurm takes no more jobs of yours for now" in (study / "printed.txt").read_text())
    told("scancel", fill)
    assert "has trained" in finish(run, study)


def test_the_user_is_told_of_a_job_that_slurm_will_never_start(train_patiently, repository):
    study = train_patiently(gpu_model="t4", slurm_partition="short", runtime=30)
    run = begin_training(study, repository)
    wait_for(lambda: "PartitionTimeLimit (as it is Slurm will not start it" in (study / "printed.txt").read_text())
    told("scancel", recorded(study)["record"]["job_id"])
    assert "was cancelled" in finish(run, study, succeeds=False)


def test_a_job_of_another_rule_that_slurm_will_never_start_is_found_as_the_page_says(study, repository):
    """Nobody announces it; the command that the page names shows the reason, and Ctrl-C takes it out of the queue."""
    change_profile(repository, {}, defaults={"slurm_partition": "short", "runtime": 30})
    run = begin(study, repository, "results/waiting.txt")
    job = wait_for(lambda: number_of_job(study))
    page = (Path(__file__).parents[2] / "docs/cluster.md").read_text()
    command = shlex.split(re.search(r"`(squeue --me --states=PENDING [^`]+)`", page)[1])
    wait_for(lambda: re.search(rf"^ *{job} .*\bPartitionTimeLimit\b", told(*command), re.M))
    os.killpg(run.pid, signal.SIGINT)
    wait_for(lambda: state_of(job) in ("", "CANCELLED"))
    finish(run, study, succeeds=False)
