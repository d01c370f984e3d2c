"""Where trainings run: processes of this machine for real, Slurm by stand-ins for its commands."""

import contextlib
import fcntl
import json
import os
import pickle
import signal
import stat
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from brainuad import jobs, launching, slurm
from brainuad.configuration import ConfigurationError
from brainuad.fingerprint import fingerprint
from brainuad.interruption import Interrupted, Interruption
from brainuad.launching import LaunchError, launch
from brainuad.models import class_of, load
from brainuad.placement import check_gpus, choose_launcher
from brainuad.records import forget

OUTPUTS = {"model": "model.safetensors", "description": "model.json", "history": "history.tsv", "cost": "cost.json"}


def entry(**changes):
    training = {"device": "cpu", "precision": "auto", "checkpoint_every": 1000, "validate_every": 1000}
    common = {"class": "vqvae.VQVAE", "params": class_of("vqvae.VQVAE").tiny, "batch_size": 2, "epochs": 2, "lr": 1e-3}
    return {**common, "training": training, **changes}


@pytest.fixture
def cohort(make_sample_set):
    return make_sample_set()


def arguments(folder, cohort, **settings):
    folder.mkdir(parents=True, exist_ok=True)
    paths = {key: folder / name for key, name in OUTPUTS.items()}
    return {**paths, "samples": [cohort], "settings": entry(**settings), "seed": 1}


def local(**changes):
    return {"launcher": "local", "runtime": 60, "poll_seconds": 0.2, **changes}


def weights(folder):
    return load(folder / "model.safetensors").state_dict()


class LongTask(jobs.Task):
    """A training that in its first two starts does not get beyond the third batch of an epoch before its time is up."""

    def __call__(self):
        from brainuad.training import Run

        answer = Run.answer

        def linger(run):
            while run.starts < 3 and run.position == 3 and not run.interruption.stop:
                time.sleep(0.1)
            answer(run)

        Run.answer = linger
        return super().__call__()


def test_a_training_that_outlives_its_time_twice_ends_with_the_same_weights(tmp_path, cohort, monkeypatch, capsys):
    monkeypatch.setattr(launching, "Task", LongTask)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    launch(arguments(tmp_path / "run", cohort), local(runtime=45 / 60))
    # One log, unless the machine is so busy that a start was over before it began.
    log = "".join(path.read_text() for path in (tmp_path / "run/submitit").glob("*_0_log.out"))
    assert json.loads((tmp_path / "run/cost.json").read_text())["starts"] == 3, log
    assert log.count("saved on request") == 2
    assert "has trained" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted([*OUTPUTS.values(), "submitit"])
    assert {path.suffix for path in (tmp_path / "run/submitit").iterdir()} == {"", ".json", ".out"}
    launch(arguments(tmp_path / "whole", cohort), {"launcher": "inline"})
    whole, run = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(whole[name].equal(run[name]) for name in whole)


def test_an_exception_is_shown_and_not_tried_again(tmp_path, cohort):
    settings = {"class": "vqvae.VQVAE", "params": {"channels": [4, 4, 4, 4, 4, 4]}}
    with pytest.raises(LaunchError) as error:
        launch(arguments(tmp_path / "run", cohort, **settings), local())
    message = str(error.value)
    assert "Traceback" in message
    assert "ValueError: A VQ-VAE of 6 levels needs images with sides divisible by 64" in message
    logs = list((tmp_path / "run/submitit").glob("*_0_log.out"))
    assert len(logs) == 1
    assert str(logs[0]) in message


def test_a_killed_training_is_started_again_but_not_for_ever(tmp_path, cohort, monkeypatch, capsys):
    monkeypatch.setattr(launching, "LARGEST_LOSSES", 1)
    done = threading.Event()

    def kill():
        while not done.wait(0.2):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "submitit.core._submit" in process.cmdline():
                        process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(LaunchError, match="ended as FAILED without a result, as did 1 before it"):
            launch(arguments(tmp_path / "run", cohort), local())
    finally:
        done.set()
        killer.join()
    assert capsys.readouterr().out.count("was lost (FAILED)") == 1


class DoomedTask(jobs.Task):
    """A training that is killed as soon as it begins."""

    def __call__(self):
        from brainuad import training

        training.train = lambda **_: os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__()


def test_a_training_that_gets_no_further_is_not_begun_for_ever(tmp_path, cohort, monkeypatch):
    monkeypatch.setattr(launching, "Task", DoomedTask)
    monkeypatch.setattr(launching, "LARGEST_LOSSES", 9)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with pytest.raises(
        LaunchError, match="started 3 times in a row without getting further than its beginning"
    ) as error:
        launch(arguments(tmp_path / "run", cohort), local())
    logs = list((tmp_path / "run/submitit").glob("*_0_log.out"))
    assert len(logs) == 4
    assert sum(str(log) in str(error.value) for log in logs) == 4
    assert "Traceback" not in str(error.value)
    monkeypatch.setattr(launching, "Task", jobs.Task)
    launch(arguments(tmp_path / "run", cohort), local())  # the user runs Snakemake again
    assert not (tmp_path / "run/submitit/starts.json").exists()


def test_the_loss_of_one_process_is_no_exception_of_the_training(tmp_path, cohort, monkeypatch):
    monkeypatch.setattr(launching, "LARGEST_LOSSES", 0)

    def kill():
        while not any("epoch" in path.read_text() for path in (tmp_path / "run/submitit").glob("*_0_log.out")):
            time.sleep(0.2)
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # of those that end meanwhile
                if process.environ().get("SUBMITIT_LOCAL_GLOBALID") == "1":
                    process.kill()

    threading.Thread(target=kill).start()
    with pytest.raises(LaunchError, match="ended as FAILED without a result") as error:
        launch(arguments(tmp_path / "run", cohort, epochs=100_000), local(tasks_per_node=2))
    assert "gloo" in str(error.value) or "all_reduce" in str(error.value)  # whichever the other process was in


def test_a_node_without_scontrol_leaves_it_to_another_job(monkeypatch):
    def train(interruption, **arguments):
        raise Interrupted

    def requeue(number, frame):
        raise FileNotFoundError(2, "No such file or directory", "scontrol")

    monkeypatch.setattr(Interruption, "listen", lambda self: None)
    monkeypatch.setattr(signal, "getsignal", lambda number: requeue)
    monkeypatch.setattr("brainuad.training.train", train)
    monkeypatch.setattr(jobs.submitit, "JobEnvironment", lambda: types.SimpleNamespace(global_rank=0))
    assert jobs.Task({})() == jobs.AGAIN


def test_a_job_that_is_cancelled_while_it_stops_is_not_requeued(monkeypatch):
    requeued = []

    def train(interruption, **arguments):
        interruption.note(signal.SIGUSR2, None)
        interruption.note(signal.SIGTERM, None)
        raise Interrupted

    def wait():
        raise TimeoutError("waits to be ended")

    monkeypatch.setattr(Interruption, "listen", lambda self: None)
    monkeypatch.setattr(signal, "getsignal", lambda number: lambda *_: requeued.append(number))
    monkeypatch.setattr(signal, "pause", wait)
    monkeypatch.setattr("brainuad.training.train", train)
    with pytest.raises(TimeoutError):
        jobs.Task({})()
    assert not requeued


def test_two_processes_train_through_submitit(tmp_path, cohort):
    launch(arguments(tmp_path / "run", cohort), local(tasks_per_node=2))
    assert json.loads((tmp_path / "run/cost.json").read_text())["processes"] == 2
    launch(arguments(tmp_path / "alone", cohort), {"launcher": "inline"})
    columns = ["loss", "validation_loss"]
    shared, alone = (pd.read_csv(tmp_path / name / "history.tsv", sep="\t")[columns] for name in ("run", "alone"))
    np.testing.assert_allclose(shared, alone, rtol=1e-5)


# A stand-in for Slurm: jobs are lines `id|name|comment|state` of the file `queue`; a job that is submitted does at once
# what the next word of the file `plan` says.
COMMAND = """#!{python}
import json, pickle, re, sys
from pathlib import Path
root, command = Path("{root}"), Path(sys.argv[0]).name
with (root / "calls").open("a") as file:
    print(command, *sys.argv[1:], file=file)
if (root / "down").exists():
    sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
queue = root / "queue"
jobs = [line.split("|") for line in queue.read_text().splitlines()]
options = dict(word.lstrip("-").partition("=")[::2] for word in sys.argv[1:] if word.startswith("--"))
if command == "squeue" and "jobs" in options:
    found = [job for job in jobs if job[0] == options["jobs"]]
    print(*(job[3] for job in found)) if found else sys.exit("slurm_load_jobs error: Invalid job id specified")
elif command == "squeue":
    found = [job for job in jobs if job[1] == options["name"] and job[3] in ("PENDING", "RUNNING")]
    print(*(f"{{job[0]}}|{{job[2]}}" for job in found), sep="\\n")
elif command == "scancel":
    ended = [[*job[:3], "CANCELLED"] if job[0] == sys.argv[1] else job for job in jobs]
    queue.write_text("".join("|".join(job) + "\\n" for job in ended))
elif command == "sbatch" and (root / "refusal").exists():
    sys.exit("sbatch: error: " + (root / "refusal").read_text())
elif command == "sbatch":
    script = Path(sys.argv[1]).read_text()
    (root / "script").write_text(script)
    wanted = dict(re.findall(r"#SBATCH --([a-z-]+)=(.*)", script))
    number, (outcome, *rest) = str(len(jobs) + 1), (root / "plan").read_text().split()
    (root / "plan").write_text(" ".join(rest))
    folder = Path(wanted["output"]).parent
    state = outcome
    if outcome in ("done", "again", "error"):
        result = ("error", "Traceback: of the job") if outcome == "error" else ("success", None)
        result = ("success", "again") if outcome == "again" else result
        (folder / f"{{number}}_0_result.pkl").write_bytes(pickle.dumps(result))
        for name in {names} if outcome == "done" else []:
            (folder / "outputs" / name).write_text(f"made by {{number}}")
        state = "COMPLETED"
    if outcome == "LAST":  # it is lost, and there is no room for another
        (root / "refusal").write_text((root / "full").read_text())
        state = "NODE_FAIL"
    if outcome.startswith("FURTHER"):
        (folder.parent / "checkpoint.pt").write_text(number)
        state = outcome.partition("-")[2] or "NODE_FAIL"
    with queue.open("a") as file:
        print(number, wanted["job-name"], wanted["comment"], state, sep="|", file=file)
    if (root / "refusal after all").exists():
        sys.exit("sbatch: error: " + (root / "refusal after all").read_text())
    print(f"Submitted batch job {{number}}")
"""


class Cluster:
    """The stand-in, and what was asked of it."""

    def __init__(self, root):
        self.root = root
        (root / "bin").mkdir(parents=True)
        (root / "queue").touch()
        for name in ("sbatch", "squeue", "scancel", "srun"):
            path = root / "bin" / name
            path.write_text(COMMAND.format(python=sys.executable, root=root, names=list(OUTPUTS.values())))
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        self.sacct("echo 'Slurm accounting storage is disabled' >&2; exit 1")

    def sacct(self, script):
        path = self.root / "bin/sacct"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def plan(self, *outcomes):
        (self.root / "plan").write_text(" ".join(outcomes))

    def calls(self, command):
        path = self.root / "calls"
        return sum(line.split()[0] == command for line in path.read_text().splitlines()) if path.exists() else 0

    def put(self, number, state, name="other", comment=""):
        with (self.root / "queue").open("a") as file:
            print(number, name, comment, state, sep="|", file=file)

    def set_state(self, number, state):
        lines = [line.split("|") for line in (self.root / "queue").read_text().splitlines()]
        text = "\n".join("|".join([*line[:3], state] if line[0] == number else line) for line in lines)
        (self.root / "queue").write_text(text + "\n")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    made = Cluster(tmp_path / "cluster")
    monkeypatch.setenv("PATH", f"{tmp_path / 'cluster/bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(launching, "PATIENCE", (1, 0.2))
    monkeypatch.setattr(launching, "LOCK_SECONDS", 1)
    return made


RESOURCES = {
    "launcher": "slurm",
    "runtime": 600,
    "mem_mb": 16000,
    "cpus_per_task": 8,
    "tasks_per_node": 1,
    "nodes": 1,
    "gpu": 1,
    "poll_seconds": 0.1,
    "slurm_partition": "gpu",
    "slurm_account": "project",
    "gpu_model": "v100",
    "constraint": "nvlink",
    "slurm_extra": "--exclude=n1,n2 --exclusive",
}


@pytest.fixture
def start(tmp_path, cohort):
    """Launch a training on the stand-in, for a Snakemake that takes note of it unless it is killed before."""

    def launch_there(noted=True, **changes):
        run = tmp_path / "train/vqvae/1"
        launch(arguments(run, cohort, **changes), RESOURCES)
        if noted:
            forget(run / "submitit")
        return (run / "model.safetensors").read_text()

    return launch_there


def record(tmp_path):
    return tmp_path / "train/vqvae/1/submitit/job.json"


def test_a_job_is_submitted_and_its_outputs_fetched(tmp_path, cluster, start):
    cluster.plan("done")
    assert start() == "made by 1"
    script = (cluster.root / "script").read_text()
    for option in (
        "--partition=gpu",
        "--account=project",
        "--gpus-per-node=v100:1",
        "--constraint=nvlink",
        "--exclude=n1,n2",
        "--exclusive",
        "--requeue",
        "--dependency=singleton",
        "--mem=16000M",
        "--time=600",
        "--cpus-per-task=8",
        "--signal=USR2@120",
    ):
        assert f"#SBATCH {option}\n" in script
    assert sys.executable in script
    assert f"PYTHONPATH={jobs.LIBRARY}" in script
    assert "export OMP_NUM_THREADS=8 " in script
    assert not record(tmp_path).exists()
    assert {path.name for path in record(tmp_path).parent.iterdir()} == {
        "lock"
    }  # all else until Snakemake has noted it


def test_a_training_without_gpus_asks_for_none():
    assert not {"gpus_per_node", "gres"} & set(slurm.request({**RESOURCES, "gpu": 0, "gres": "gpu:v100:1"}, 16000))


@pytest.mark.parametrize(
    ("reason", "cure"),
    [
        ("launch failed requeued held", "`scontrol release 1`"),
        ("PartitionTimeLimit", "`scancel 1`"),
        ("BadConstraints", "`scancel 1`"),
        ("InvalidQOS", "`scancel 1`"),
        ("QOSMaxWallDurationPerJobLimit", "`scancel 1`"),
        ("AssocGrpCPUMinutesLimit", "`scancel 1`"),
        ("Priority", ""),
        ("PartitionDown", ""),
        ("Resources", ""),
        ("AssocGrpGRES", ""),
        ("AssocGrpCPURunMinutesLimit", ""),
        ("QOSMaxJobsPerUserLimit", ""),
    ],
)
def test_a_reason_to_wait_that_does_not_pass_comes_with_what_to_do(reason, cure):
    assert cure in slurm.advice(reason, "1")
    assert bool(cure) == bool(slurm.advice(reason, "1"))


def test_the_user_is_told_of_a_job_that_slurm_holds(tmp_path, cluster, start, monkeypatch):
    told, reasons = [], ["Priority", "launch failed requeued held", "launch failed requeued held"]

    def reason(job):
        if not reasons:
            finish(tmp_path, cluster, job)
        return reasons.pop(0) if reasons else ""

    monkeypatch.setattr("brainuad.runtime.tell", told.append)
    monkeypatch.setattr(slurm, "reason", reason)
    cluster.plan("PENDING")
    assert start() == "by hand"
    assert [line for line in told if "held" in line] == [line for line in told if "`scontrol release 1`" in line]
    assert sum("held" in line for line in told) == 1


FULL = (
    "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates accounting/"
    "QOS policy (job submit limit, user's size and/or time limits)"
)


@pytest.mark.parametrize(
    "said",
    [
        FULL,
        "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates accounting",
        "sbatch: error: Batch job submission failed: Slurm temporarily unable to accept job, sleeping and retrying",
    ],
)
def test_a_training_waits_for_room_in_the_queue(cluster, start, said, monkeypatch):
    told = []
    monkeypatch.setattr("brainuad.runtime.tell", told.append)
    cluster.plan("done")
    (cluster.root / "refusal").write_text(said)

    def make_room():
        while cluster.calls("sbatch") < 3:
            time.sleep(0.05)
        (cluster.root / "refusal").unlink()

    threading.Thread(target=make_room).start()
    assert start() == "made by 1"
    assert len([line for line in told if "Slurm takes no more jobs of yours for now (sbatch: error:" in line]) == 1


def test_the_patience_for_room_in_the_queue_has_an_end(cluster, start, monkeypatch):
    monkeypatch.setattr(launching, "ROOM_SECONDS", 0.5)
    (cluster.root / "refusal").write_text(FULL)
    with pytest.raises(LaunchError, match="run Snakemake again later"):
        start()
    assert cluster.calls("sbatch") > 1


def test_who_interrupts_a_training_that_waits_for_room_leaves_no_job(cluster, start):
    (cluster.root / "refusal").write_text(FULL)
    interrupt_when(lambda: cluster.calls("sbatch") > 1)
    with pytest.raises(LaunchError, match="no job was submitted"):
        start()


def test_a_limit_on_one_job_is_not_waited_for(cluster, start):
    (cluster.root / "refusal").write_text(FULL.replace("MaxSubmitJobPerUserLimit", "MaxWallDurationPerJobLimit"))
    with pytest.raises(LaunchError, match="correct the resources"):
        start()
    assert cluster.calls("sbatch") == 1


def test_a_killed_launcher_finds_its_job_again(tmp_path, cluster, start, capsys):
    cluster.plan("RUNNING")
    interrupt_when(lambda: cluster.calls("squeue") > 2)
    with pytest.raises(LaunchError, match="Slurm job 1 goes on: run Snakemake again"):
        start()
    assert cluster.calls("scancel") == 0
    assert json.loads(record(tmp_path).read_text())["record"]["job_id"] == "1"
    finish(tmp_path, cluster, "1", looks=3)
    assert start() == "by hand"
    assert "found again" in capsys.readouterr().out
    assert cluster.calls("sbatch") == 1


def interrupt_when(happened):
    """Press Ctrl-C as soon as something has happened."""

    def press():
        while not happened():
            time.sleep(0.05)
        os.kill(os.getpid(), 2)

    threading.Thread(target=press, daemon=True).start()


def finish(tmp_path, cluster, number, looks=0):
    """Let a job end well after so many more questions about it."""
    looks += cluster.calls("squeue")

    def end():
        while cluster.calls("squeue") < looks:
            time.sleep(0.05)
        folder = tmp_path / "train/vqvae/1/submitit"
        for name in OUTPUTS.values():
            (folder / "outputs" / name).write_text("by hand")
        (folder / f"{number}_0_result.pkl").write_bytes(pickle.dumps(("success", None)))
        cluster.set_state(number, "COMPLETED")

    thread = threading.Thread(target=end)
    thread.start()
    return thread


@pytest.fixture
def left(tmp_path, cluster, start):
    """A launcher was killed while its job 1 ran."""
    cluster.plan("RUNNING")
    interrupt_when(lambda: cluster.calls("squeue") > 2)
    with pytest.raises(LaunchError):
        start()


def test_a_job_without_a_record_is_found_by_its_name(tmp_path, cluster, start, left):
    record(tmp_path).unlink()
    finish(tmp_path, cluster, "1", looks=3)
    assert start() == "by hand"
    assert cluster.calls("sbatch") == 1


def test_a_job_whose_launcher_was_killed_before_sbatch_returned_is_replaced(tmp_path, cluster, start, left):
    record(tmp_path).unlink()
    (tmp_path / "train/vqvae/1/submitit/1_submitted.pkl").unlink()
    cluster.plan("done")
    assert start() == "made by 2"
    assert cluster.calls("scancel") == 1


@pytest.mark.parametrize(
    "text", ["", "{", '{"cluster": "Slurm job"}', '{"cluster": "a", "record": {"colour": 1}}', "[]"]
)
def test_a_record_that_a_crash_has_spoilt_loses_no_job(tmp_path, cluster, start, left, text):
    record(tmp_path).write_text(text)
    forget(record(tmp_path).parent)
    finish(tmp_path, cluster, "1", looks=3)
    assert start() == "by hand"
    assert cluster.calls("sbatch") == 1


def test_a_result_that_came_while_nobody_looked_is_taken(tmp_path, cluster, start, left):
    finish(tmp_path, cluster, "1").join()
    assert start() == "by hand"
    assert cluster.calls("sbatch") == 1


def fail(tmp_path, number):
    """Let a job end by an exception of its own."""
    failure = pickle.dumps(("error", "Traceback: of the job"))
    (tmp_path / f"train/vqvae/1/submitit/{number}_0_result.pkl").write_bytes(failure)


def test_a_failure_while_nobody_looked_is_shown_once_and_not_submitted_again(tmp_path, cluster, start, left):
    fail(tmp_path, "1")
    cluster.set_state("1", "FAILED")
    with pytest.raises(LaunchError, match=r"Slurm job 1 .* failed; log: .*/1_0_log\.out\nTraceback: of the job"):
        start()
    assert cluster.calls("sbatch") == 1
    cluster.plan("done")
    assert start() == "made by 2"  # the user ran Snakemake again


def test_what_was_cancelled_while_nobody_looked_is_submitted_only_by_a_further_run(tmp_path, cluster, start, left):
    cluster.set_state("1", "CANCELLED")
    with pytest.raises(LaunchError, match="was cancelled: run Snakemake again to submit it anew"):
        start()
    assert cluster.calls("sbatch") == 1
    cluster.plan("done")
    assert start() == "made by 2"


def test_a_failure_of_other_settings_is_no_news(tmp_path, cluster, start, left):
    fail(tmp_path, "1")
    cluster.set_state("1", "FAILED")
    cluster.plan("done")
    assert start(lr=2e-3) == "made by 2"


def test_the_failure_of_a_local_training_is_shown_by_the_next_run(tmp_path, cohort):
    run = tmp_path / "train/vqvae/1"
    made = launching.Launch(run / "submitit", arguments(run, cohort), local(), jobs.Local(run / "submitit", local()))
    made.folder.mkdir()
    made.write(launching.Record("1", made.fingerprint, 0))
    assert made.find() is None  # it was killed with its launcher
    fail(tmp_path, "1")
    with pytest.raises(LaunchError, match=r"Local job 1 .* failed; log: .*\nTraceback: of the job"):
        launch(arguments(run, cohort), local())
    launch(arguments(run, cohort), local())


def test_losses_are_counted_over_the_restarts_of_snakemake(tmp_path, cluster, start, left):
    for number in range(1, 4):
        cluster.set_state(str(number), "NODE_FAIL")
        cluster.plan("RUNNING")
        looked_at = f"--jobs={number + 1} --format=%T"
        interrupt_when(lambda words=looked_at: words in (cluster.root / "calls").read_text())
        with pytest.raises(LaunchError, match=f"Slurm job {number + 1} goes on"):
            start()
    cluster.set_state("4", "NODE_FAIL")
    with pytest.raises(LaunchError, match="ended as NODE_FAIL without a result, as did 3 before it"):
        start()
    assert cluster.calls("sbatch") == 4
    cluster.plan("done")
    assert start() == "made by 5"


@pytest.mark.parametrize(("mem_mb", "asked"), [(16000, 32000), (20000, 20000)])
def test_memory_that_lacked_while_nobody_looked_is_raised_unless_it_was_corrected(
    cluster, start, left, monkeypatch, mem_mb, asked
):
    cluster.set_state("1", "OUT_OF_MEMORY")
    cluster.plan("done")
    monkeypatch.setitem(RESOURCES, "mem_mb", mem_mb)
    assert start() == "made by 2"
    assert f"#SBATCH --mem={asked}M\n" in (cluster.root / "script").read_text()


def remove_outputs(tmp_path):
    """What Snakemake does with the outputs of a job that it has no note of, and before a job that is forced."""
    for name in OUTPUTS.values():
        (tmp_path / "train/vqvae/1" / name).unlink()


def test_a_result_that_snakemake_was_killed_before_noting_is_taken_again(tmp_path, cohort, cluster, start, capsys):
    cluster.plan("done", "done")
    assert start(noted=False) == "made by 1"
    remove_outputs(tmp_path)
    (cluster.root / "queue").write_text("")  # Slurm has forgotten it
    assert start(noted=False) == "made by 1"
    assert "has finished" in capsys.readouterr().out
    remove_outputs(tmp_path)
    assert start(noted=False, lr=2e-3) == "made by 1"  # by a new job: the queue was emptied
    assert cluster.calls("sbatch") == 2
    (cluster.root / "down").touch()  # no job is at work, so there is nothing to ask about
    launch(arguments(tmp_path / "train/vqvae/1", cohort, epochs=1), {"launcher": "inline"})


def test_what_snakemake_has_noted_is_trained_anew_when_it_is_forced(tmp_path, cluster, start):
    cluster.plan("done", "done")
    assert start(noted=True) == "made by 1"
    remove_outputs(tmp_path)
    assert start() == "made by 2"


def test_a_job_at_work_is_not_forgotten(tmp_path, cluster, start, left):
    forget(record(tmp_path).parent)
    finish(tmp_path, cluster, "1").join()
    assert start() == "by hand"


def test_a_result_of_other_settings_is_not_taken(tmp_path, cluster, start, left):
    finish(tmp_path, cluster, "1").join()
    cluster.plan("done")
    assert start(lr=2e-3) == "made by 2"


@pytest.mark.parametrize("recorded", [True, False])
def test_a_job_for_other_settings_is_refused_while_it_runs(tmp_path, cluster, start, left, recorded):
    if not recorded:
        record(tmp_path).unlink()
    with pytest.raises(LaunchError, match=r"Slurm job 1 still trains this model with other settings.*scancel 1"):
        start(lr=2e-3)
    assert cluster.calls("sbatch") == 1


@pytest.mark.parametrize("recorded", [True, False])
def test_nothing_is_submitted_while_slurm_is_silent(tmp_path, cluster, start, left, recorded):
    if not recorded:
        record(tmp_path).unlink()
    (cluster.root / "down").touch()
    with pytest.raises(LaunchError, match="Unable to contact slurm controller"):
        start()
    assert cluster.calls("sbatch") == 1


def test_a_silent_slurm_ends_no_wait_and_the_user_is_told_once(tmp_path, cluster, start, capsys, monkeypatch):
    told = []
    monkeypatch.setattr("brainuad.runtime.tell", told.append)
    cluster.plan("RUNNING")

    def fail_and_recover():
        while cluster.calls("squeue") < 3:
            time.sleep(0.05)
        (cluster.root / "down").touch()
        looks = cluster.calls("squeue") + 4
        while cluster.calls("squeue") < looks:
            time.sleep(0.05)
        (cluster.root / "down").unlink()
        finish(tmp_path, cluster, "1", looks=3)

    threading.Thread(target=fail_and_recover).start()
    assert start() == "by hand"
    assert cluster.calls("sbatch") == 1
    assert "is left alone" in capsys.readouterr().out
    assert len([line for line in told if "is left alone" in line]) == 1
    assert len([line for line in told if "answers again" in line]) == 1


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("Batch job submission failed: Invalid account", "no job could be submitted; correct the resources"),
        ("Unable to contact slurm controller (connect failure)", "as Slurm does not answer: run Snakemake again"),
        ("Socket timed out on send/recv operation", "as Slurm does not answer: run Snakemake again"),
    ],
)
def test_a_refusal_is_told_from_silence(cluster, start, said, advice):
    (cluster.root / "refusal").write_text(said)
    with pytest.raises(LaunchError, match=advice) as error:
        start()
    assert said in str(error.value)
    assert cluster.calls("scancel") == 0


def test_a_job_that_was_taken_in_silence_is_ended(tmp_path, cluster, start):
    cluster.plan("RUNNING", "done")
    (cluster.root / "refusal after all").write_text("Unexpected message received")
    with pytest.raises(LaunchError, match="Slurm does not answer"):
        start()
    assert "|CANCELLED" in (cluster.root / "queue").read_text()
    (cluster.root / "refusal after all").unlink()
    assert start() == "made by 2"


def test_a_cancelled_job_stays_cancelled(tmp_path, cluster, start):
    cluster.plan("CANCELLED", "done")
    with pytest.raises(LaunchError, match=r"Slurm job 1 .* was cancelled: run Snakemake again"):
        start()
    assert cluster.calls("sbatch") == 1
    assert start() == "made by 2"  # the user ran Snakemake again


@pytest.mark.parametrize("state", ["NODE_FAIL", "BOOT_FAIL", "FAILED", "PREEMPTED"])
def test_a_lost_job_is_replaced_three_times(cluster, start, state):
    cluster.plan(*[state] * 3, "done")
    assert start() == "made by 4"
    cluster.plan(*[state] * 9)
    with pytest.raises(LaunchError, match=f"ended as {state} without a result, as did 3 before it"):
        start()
    assert cluster.calls("sbatch") == 8


def test_losses_count_only_in_a_row_without_a_checkpoint(tmp_path, cluster, start):
    cluster.plan(*["FURTHER"] * 5, "NODE_FAIL", "NODE_FAIL", "NODE_FAIL", "done")
    assert start() == "made by 9"


@pytest.mark.parametrize("state", ["TIMEOUT", "OUT_OF_MEMORY"])
def test_a_job_that_got_further_ends_a_row_of_losses(cluster, start, state):
    cluster.plan(*["NODE_FAIL"] * 3, f"FURTHER-{state}", *["NODE_FAIL"] * 3, "done")
    assert start() == "made by 8"


def test_who_interrupts_the_wait_for_room_in_place_of_a_lost_job_leaves_no_job(cluster, start):
    (cluster.root / "full").write_text(FULL)
    cluster.plan("LAST")
    interrupt_when(lambda: cluster.calls("sbatch") > 2)
    with pytest.raises(LaunchError, match="no job was submitted"):
        start()


def test_accounts_that_are_down_keep_no_training_from_being_submitted(cluster, start):
    cluster.plan("CANCELLED", "done")
    with pytest.raises(LaunchError, match="was cancelled"):
        start()
    (cluster.root / "queue").write_text("1|other||x\n".replace("1|", "0|"))  # forgotten by squeue
    cluster.sacct("echo 'Connection refused' >&2; exit 1")
    assert not jobs.Slurm(cluster.root, {}).is_active("1")
    assert start() == "made by 2"


def test_the_signal_is_the_one_that_a_job_hears(cluster, start, monkeypatch):
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    cluster.plan("done")
    start()
    assert "#SBATCH --signal=USR2@120\n" in (cluster.root / "script").read_text()


def test_hidden_gpus_stay_hidden(monkeypatch):
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert jobs.visible_gpus(2) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert jobs.visible_gpus(2) == [3, 5]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert jobs.visible_gpus(2) == [0, 1]


def test_a_job_without_memory_gets_more_twice(cluster, start, capsys):
    cluster.plan("OUT_OF_MEMORY", "OUT_OF_MEMORY", "done")
    assert start() == "made by 3"
    assert "#SBATCH --mem=64000M\n" in (cluster.root / "script").read_text()
    cluster.plan(*["OUT_OF_MEMORY"] * 3)
    with pytest.raises(LaunchError, match="too little memory with 64000 MB: raise mem_mb"):
        start()
    assert cluster.calls("sbatch") == 6


def test_what_was_learnt_of_memory_outlives_the_launcher(cluster, start, monkeypatch):
    cluster.plan("OUT_OF_MEMORY", "CANCELLED", "done")
    with pytest.raises(LaunchError, match="was cancelled"):
        start()
    assert start() == "made by 3"
    assert "#SBATCH --mem=32000M\n" in (cluster.root / "script").read_text()
    cluster.plan("OUT_OF_MEMORY", "CANCELLED", "done")
    with pytest.raises(LaunchError, match="was cancelled"):
        start()
    monkeypatch.setitem(RESOURCES, "mem_mb", 20000)  # the user has corrected it
    assert start() == "made by 6"
    assert "#SBATCH --mem=20000M\n" in (cluster.root / "script").read_text()


@pytest.mark.parametrize(
    "line",
    [
        "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.0 cgroup. Some of your processes may be",
        "srun: error: n1: task 3: Out Of Memory",
        "slurmstepd: error: StepId=7.0 exceeded memory limit (1500000000 > 1258291200), being killed",
    ],
)
def test_the_memory_of_a_step_is_that_of_its_job(tmp_path, cluster, line):
    cluster.put("7", "FAILED")
    job = jobs.Slurm(tmp_path, {})
    assert job.state("7") == "FAILED"
    (tmp_path / "7_0_log.out").write_text(f"epoch 1\n{line}\nsrun: error: n1: task 0: Killed\n")
    assert job.state("7") == "OUT_OF_MEMORY"


@pytest.mark.parametrize("outcome", ["TIMEOUT", "again"])
def test_a_job_out_of_time_is_replaced_if_it_got_further(tmp_path, cluster, start, outcome):
    cluster.plan(outcome)
    with pytest.raises(LaunchError, match="reached its time limit without a checkpoint: raise runtime"):
        start()
    cluster.plan("RUNNING", *["done"])
    checkpoint = tmp_path / "train/vqvae/1/checkpoint.pt"

    def get_further():
        while not record(tmp_path).exists() or json.loads(record(tmp_path).read_text())["record"]["job_id"] != "2":
            time.sleep(0.05)
        checkpoint.touch()
        cluster.set_state("2", "TIMEOUT")

    threading.Thread(target=get_further).start()
    assert start() == "made by 3"


def test_an_exception_of_the_job_is_shown_and_the_job_not_replaced(cluster, start):
    cluster.plan("error", "done")
    with pytest.raises(LaunchError, match=r"Slurm job 1 .* failed; log: .*/1_0_log\.out\nTraceback: of the job"):
        start()
    assert cluster.calls("sbatch") == 1
    assert start() == "made by 2"


def test_no_training_beside_a_slurm_job(tmp_path, cohort, cluster, left):
    for resources in ({"launcher": "inline"}, local()):
        with pytest.raises(LaunchError, match=r"Slurm job 1 still trains this model: set training\.launcher to slurm"):
            launch(arguments(tmp_path / "train/vqvae/1", cohort), resources)
    (cluster.root / "down").touch()
    with pytest.raises(LaunchError, match=r"may still train this model .*remove .*/job\.json if it does not"):
        launch(arguments(tmp_path / "train/vqvae/1", cohort), {"launcher": "inline"})
    (cluster.root / "down").unlink()
    cluster.set_state("1", "CANCELLED")
    launch(arguments(tmp_path / "train/vqvae/1", cohort, epochs=1), {"launcher": "inline"})


def test_one_launcher_at_a_time(tmp_path, cluster, start):
    folder = tmp_path / "train/vqvae/1/submitit"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LaunchError, match="another Snakemake waits for this training"):
            start()
    assert cluster.calls("sbatch") == 0


def test_a_forgotten_job_is_looked_up_in_the_accounts(cluster):
    assert slurm.state("7") == ""
    cluster.sacct("echo 'CANCELLED by 1000'")
    assert slurm.state("7") == "CANCELLED"
    cluster.sacct("echo 'connection refused' >&2; exit 1")
    with pytest.raises(slurm.Unreachable, match="connection refused"):
        slurm.state("7")


def test_several_gpus_and_nodes_are_requested():
    asked = slurm.request({**RESOURCES, "tasks_per_node": 4, "nodes": 2, "gpu": 8}, 16000)
    assert (asked["nodes"], asked["ntasks_per_node"], asked["gpus_per_node"]) == (2, 4, "v100:4")
    asked = slurm.request({**RESOURCES, "gres": "gpu:a100:1"}, 16000)
    assert asked["gres"] == "gpu:a100:1"
    assert "gpus_per_node" not in asked
    asked = slurm.request({"runtime": 2}, 4096)
    assert asked["signal_delay_s"] == 30
    assert asked["mem"] == "4096M"
    assert not {"partition", "account", "qos", "constraint", "gpus_per_node"} & set(asked)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"slurm_extra": "--exclusive --comment=mine"}, "must not hold --comment: by that a training is found again"),
        ({"slurm_extra": "--signal=USR1@60"}, "must not hold --signal: by that"),
        ({"slurm_extra": "--no-requeue"}, "must not hold --no-requeue: by that"),
        ({"slurm_extra": "--output x"}, "must not hold --output: by that"),
        ({"slurm_extra": "--time=5"}, "must not hold --time: say it by the resource"),
        ({"slurm_extra": "--comment='a"}, "slurm_extra of rule train, .* cannot be read: No closing quotation"),
        ({"slurm_extra": "-x node17"}, "write -x in full"),
        ({"slurm_extra": "-M other"}, "write -M in full"),
        ({"slurm_extra": "--clusters=other"}, "must not hold --clusters: by that"),
        ({"slurm_extra": "--wrap=true"}, "must not hold --wrap: by that"),
        ({"slurm_extra": "--mem=5G"}, "must not hold --mem: say it by the resource"),
        ({"slurm_extra": "--mem-per-cpu=5G"}, "must not hold --mem-per-cpu: say it by the resource"),
        ({"slurm_extra": "--mem-per-gpu=5G"}, "must not hold --mem-per-gpu: say it by the resource"),
        ({"clusters": "other"}, "`clusters` of rule train, which takes no such resource"),
        ({"mem_mb_per_cpu": 500}, "`mem_mb` says how much memory"),
        ({"cpus_per_gpu": 4}, "`cpus_per_task` says how many"),
        ({"gpu": 0}, "said by `training.gpus`"),
        ({"slurm_extra": "node17"}, "node17 belongs to no option"),
        ({"gpu_model": "a100-sxm4"}, "`gpu_model` of rule train is 'a100-sxm4', but the executor takes letters"),
    ],
)
def test_what_breaks_a_training_is_refused_in_the_profile(resources, message):
    with pytest.raises(ValueError, match=message):
        slurm.check_resources("train", resources)


def test_what_breaks_no_training_is_taken_from_the_profile():
    slurm.check_resources("train", {"gpu_model": "'v100'", "slurm_extra": "--exclude=n1 --nice 7 --exclusive"})
    slurm.check_resources("score", {"slurm_extra": "-x n1"})
    assert slurm.options("--exclude=n1 --nice 7 --exclusive") == {"exclude": "n1", "nice": "7", "exclusive": True}


def raised_in(module, error):
    """The error, as if a function of that module had raised it."""
    try:
        exec("def fail(error):\n    raise error", space := {"__name__": module})
        space["fail"](error)
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    ("module", "error", "lost"),
    [
        ("torch.distributed.distributed_c10d", RuntimeError("[pair.cc:534] Connection closed by peer [::1]:1"), True),
        ("torch.distributed.distributed_c10d", RuntimeError("Timed out waiting 1800000ms for recv operation"), True),
        ("torch.distributed.distributed_c10d", RuntimeError("ncclRemoteError: A call failed possibly due to"), True),
        ("torch.distributed.distributed_c10d", RuntimeError("NCCL error: ncclInvalidUsage"), False),
        ("torch.distributed.distributed_c10d", RuntimeError("output tensor size must match"), False),
        ("torch.distributed.distributed_c10d", TypeError("Connection closed by peer"), False),
        ("brainuad.ranks", RuntimeError("Connection closed by peer"), False),
        ("torch._tensor", ConnectionResetError("Connection reset by peer"), False),
    ],
)
def test_only_the_loss_of_another_process_is_taken_for_one(module, error, lost):
    assert jobs.lost_others(raised_in(module, error)) is lost


def test_the_job_that_snakemake_is_in_is_hidden_but_not_where_slurm_is(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_CONF", "SBATCH_ACCOUNT", "RANK"):
        monkeypatch.setenv(name, "x")
    with jobs.outside_of_jobs():
        assert "SLURM_JOB_ID" not in os.environ
        assert "RANK" not in os.environ
        assert os.environ["SLURM_CONF"] == os.environ["SBATCH_ACCOUNT"] == "x"
    assert os.environ["SLURM_JOB_ID"] == "x"


def test_the_fingerprint_sees_settings_seed_samples_and_upstream(cohort, tmp_path):
    first = fingerprint({"lr": 1}, 1, [cohort], [None])
    assert first == fingerprint({"lr": 1}, 1, [cohort], [None])
    upstream = tmp_path / "upstream"
    upstream.write_text("weights")
    others = [
        fingerprint({"lr": 2}, 1, [cohort], [None]),
        fingerprint({"lr": 1}, 2, [cohort], [None]),
        fingerprint({"lr": 1}, 1, [cohort, cohort], [None]),
        fingerprint({"lr": 1}, 1, [cohort], [upstream]),
    ]
    images = np.load(cohort / "images.npy")
    images[5] /= 2  # one image of many
    np.save(cohort / "images.npy", images)
    others.append(fingerprint({"lr": 1}, 1, [cohort], [None]))
    assert len({first, *others}) == 6


def test_auto_is_what_the_profile_and_the_number_of_gpus_ask_for():
    def choose(launcher="auto", gpus=1, nodes=1, slurm=False):
        return choose_launcher({"launcher": launcher, "gpus": gpus, "nodes": nodes}, slurm)

    assert choose() == "inline"
    assert choose(gpus=2) == "local"
    assert choose(gpus=2, nodes=2, slurm=True) == "slurm"
    assert choose("inline", slurm=True) == "inline"
    assert choose("slurm") == "slurm"
    with pytest.raises(ConfigurationError, match=r"`training\.gpus` is 2, but the launcher inline has one process"):
        choose("inline", gpus=2)
    with pytest.raises(ConfigurationError, match=r"`training\.nodes` is 2, but trainings run on this machine"):
        choose("local", nodes=2)


def test_no_job_gets_fewer_gpus_than_it_needs_without_a_word():
    needed = {"train": 2, "score": 1}
    check_gpus(needed, None)
    check_gpus(needed, 2)
    for allowed, rule in ((0, "train"), (1, "train")):
        with pytest.raises(
            ConfigurationError, match=f"gpu={allowed}` allows fewer GPUs than a job of rule {rule} needs"
        ):
            check_gpus(needed, allowed)
    with pytest.raises(ConfigurationError, match="a job of rule score needs"):
        check_gpus({"train": 0, "score": 1}, 0)


def test_processes_meet_where_no_connection_takes_the_port():
    """Linux gives connections ports from 32,768 on; those of submitit go up to 60,000, one for each job."""
    ports = [jobs.below_connections(port) for port in range(20_000, 60_001)]
    assert (min(ports), max(ports)) == (20_000, 31_999)
    assert len(set(ports)) == 12_000
