"""The two kinds of job that a training may be: one of Slurm, or processes of this machine.

Both run the same task through submitit and are told alike to save before their time is up and be started again.
"""

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

import psutil
import submitit

from brainuad import slurm
from brainuad.interruption import Interrupted, Interruption
from brainuad.runtime import end_with
from brainuad.starts import count_start

__all__ = ["AGAIN", "Local", "Slurm", "Task"]

LIBRARY = Path(__file__).parents[1]
AGAIN = "again"  # result of a job that saved in time but could not have itself requeued
FAREWELL = "Exiting gracefully"  # submitit's last line of a process that wants to be started again
# What gloo and NCCL say when another process does not answer any more.
LOSS = re.compile(
    r"connection (was )?(closed|reset|refused|aborted)|broken pipe|timed? ?out|remote process exited"
    r"|ncclRemoteError|ncclSystemError|communicator was aborted|unreachable|no route to host",
    re.IGNORECASE,
)
STARTS = 1000  # after a time limit; each gets at least one step further, so only a wrong runtime reaches this


@dataclasses.dataclass
class Task:
    """A training as submitit runs it, in each of its processes; pickled, and found again by import.

    Attributes:
        arguments: of ``training.train``.
        gpus: processes on each node.
        nodes: machines.
        launcher: id and time of creation of the process that a local training must not outlive.
        starts: where its starts are counted; None not to.
    """

    arguments: dict
    gpus: int = 1
    nodes: int = 1
    launcher: tuple[int, float] | None = None
    starts: Path | None = None

    def __call__(self) -> str | None:
        """Train; on request stop after a step and have the job started again, if need be by the launcher.

        Raises:
            FruitlessStartsError: the last starts of this training all got no further.
        """
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's: it writes this task anew, requeues the job and exits
        interruption = Interruption()
        interruption.listen()
        if self.launcher:
            end_with(living(*self.launcher))
        if self.starts and submitit.JobEnvironment().global_rank == 0:
            count_start(self.starts, self.arguments["checkpoint"], submitit.JobEnvironment().job_id)
        if self.gpus * self.nodes > 1:
            join_others(self.nodes)
        from brainuad.training import train

        try:
            train(**self.arguments, gpus=self.gpus, nodes=self.nodes, interruption=interruption)
        except Interrupted:
            while interruption.save:  # cancelled or preempted meanwhile: Slurm ends the job and knows what comes next
                signal.pause()
            if submitit.JobEnvironment().global_rank == 0:
                try:
                    requeue(signal.SIGUSR2, None)
                except (OSError, subprocess.SubprocessError) as error:
                    print(f"The job cannot be requeued ({error}): another takes its place.", flush=True)
                    return AGAIN
            sys.exit(0)  # with no result, which would be taken for the end of the training
        except Exception as error:
            if not lost_others(error):
                raise
            traceback.print_exc()
            sys.exit(1)  # with no result: if another process failed, its own exception says why, else the job is lost
        return None

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What the next start runs: the same, since all it needs to go on is on disk by now."""
        return submitit.helpers.DelayedSubmission(self)


def living(process_id: int, created: float) -> psutil.Process | None:
    """The process of that id, unless it has ended and the id is another's."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(process_id)
        return process if process.create_time() == created else None
    return None


def lost_others(error: Exception) -> bool:
    """Whether an exception says that another process of the job has ended, or its node: torch.distributed raised it
    itself, and in words of the network. All others, also those that only pass through it, are of the training."""
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    raised_there = innermost.f_globals.get("__name__", "").startswith("torch.distributed")
    return raised_there and isinstance(error, RuntimeError) and LOSS.search(str(error)) is not None


def join_others(nodes: int) -> None:
    """Put this process's place among those of its job, and where to meet them, into the environment."""
    # All GPUs of the node stay visible, under the names that Slurm gave them: this process takes the one of its number.
    place = submitit.helpers.TorchDistributedEnvironment()
    if "MASTER_PORT" not in os.environ:
        place.master_port = below_connections(place.master_port)
    place.export(set_cuda_visible_devices=False, overwrite=True)
    if nodes == 1:
        os.environ["MASTER_ADDR"] = "127.0.0.1"  # a node need not know its own name


def below_connections(port: int) -> int:
    """A port in place of submitit's (20,000 to 60,000) below 32,768, from where on any connection may have taken it."""
    return 20_000 + port % 12_000


class Slurm:
    """Jobs of Slurm. They outlive the launcher and are found again."""

    title = "Slurm job"
    outlives = True  # the launcher: how it ended may be seen by a later one only
    patience = 1  # times the usual, until an end is believed

    def __init__(self, folder: Path, resources: dict):
        self.folder, self.resources = folder, resources

    def submit(self, task: Task, name: str, comment: str, memory_mb: int) -> str:
        """Submit a job; returns its id.

        Raises:
            RuntimeError: sbatch refused it, or is not there.
        """
        gpus, nodes = int(self.resources.get("tasks_per_node", 1)), int(self.resources.get("nodes", 1))
        executor = submitit.SlurmExecutor(self.folder.absolute(), max_num_timeout=STARTS)
        executor.update_parameters(
            **slurm.request(self.resources, memory_mb),
            job_name=name,
            comment=comment,
            dependency="singleton",
            stderr_to_stdout=True,
            setup=[f"export PYTHONPATH={quote(str(LIBRARY))}${{PYTHONPATH:+:$PYTHONPATH}}", threads(self.resources)],
        )
        with outside_of_jobs():
            return executor.submit(dataclasses.replace(task, gpus=gpus, nodes=nodes)).job_id

    def find(self, name: str) -> slurm.Queued | None:
        """A job of that name that has not ended."""
        return slurm.find(name)

    def state(self, job_id: str) -> str:
        """State of a job; that of its step where this says more."""
        state = slurm.state(job_id)
        lacking = state == "FAILED" and slurm.ran_out_of_memory(self.folder / f"{job_id}_0_log.out")
        return "OUT_OF_MEMORY" if lacking else state

    def reason(self, job_id: str) -> str:
        """Why a job waits."""
        return slurm.reason(job_id)

    def is_active(self, job_id: str) -> bool:
        """Whether a job runs or will run, be it that Slurm is about to requeue it."""
        return slurm.queued_state(job_id) in slurm.ACTIVE | {"NODE_FAIL", "PREEMPTED"}

    def can_run(self, job_id: str) -> bool:
        """Whether a job has its files; one whose launcher was killed before sbatch returned has none, and is ended."""
        if (self.folder / f"{job_id}_submitted.pkl").exists():
            return True
        self.cancel(job_id)
        return False

    def cancel(self, job_id: str) -> None:
        """End what is left of a job."""
        with contextlib.suppress(slurm.Unreachable):
            slurm.ask("scancel", job_id)

    def leave(self, job_id: str) -> str:
        """What becomes of a job whose launcher is interrupted."""
        return (
            f"Slurm job {job_id} goes on: run Snakemake again to wait for it, or end it by `scancel {job_id}`; its "
            "checkpoint stays."
        )


class Local:
    """Processes of this machine that are stopped at a time limit and started again. They end with the launcher."""

    title = "Local job"
    outlives = False
    patience = 0

    def __init__(self, folder: Path, resources: dict):
        self.folder, self.resources = folder, resources
        self.process: subprocess.Popen | None = None

    def submit(self, task: Task, name: str, comment: str, memory_mb: int) -> str:
        """Start the processes; returns the id of the one that looks after them."""
        gpus, seconds = int(self.resources.get("tasks_per_node", 1)), 60 * self.resources["runtime"]
        me, visible = psutil.Process(), visible_gpus(gpus)
        task = dataclasses.replace(task, gpus=gpus, launcher=(me.pid, me.create_time()))
        executor = submitit.LocalExecutor(self.folder.absolute(), max_num_timeout=STARTS)
        executor.update_parameters(
            timeout_min=seconds / 60,
            signal_delay_s=slurm.signal_seconds(seconds),
            tasks_per_node=gpus,
            gpus_per_node=gpus,
            visible_gpus=visible,
            stderr_to_stdout=True,
        )
        path = os.pathsep.join([str(LIBRARY), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).rstrip(os.pathsep)
        with outside_of_jobs(), submitit.core.utils.environment_variables(PYTHONPATH=path):
            job = executor.submit(task)
        self.process = job._process
        return job.job_id

    def find(self, name: str) -> None:
        """Nothing: such jobs end with their launcher."""

    def is_active(self, job_id: str) -> bool:
        """Whether the job of an earlier launcher lives: none does."""
        return False

    def state(self, job_id: str) -> str:
        """``RUNNING``; then ``TIMEOUT`` where submitit gives up after some starts, or ``FAILED``."""
        if self.process.poll() is None:
            return "RUNNING"
        log = self.folder / f"{job_id}_0_log.out"
        last = log.read_text(errors="replace").splitlines()[-1:] if log.exists() else []
        return "TIMEOUT" if last and FAREWELL in last[0] else "FAILED"

    def reason(self, job_id: str) -> str:
        """Nothing: such jobs never wait."""
        return ""

    def cancel(self, job_id: str) -> None:
        """Stop all processes."""
        if self.process and self.process.poll() is None:  # that of an earlier launcher has ended with it
            self.process.send_signal(signal.SIGINT)
            self.process.wait()

    def leave(self, job_id: str) -> str:
        """What becomes of a job whose launcher is interrupted."""
        self.cancel(job_id)
        return f"Local job {job_id} was stopped: run Snakemake again to go on from its checkpoint."


def threads(resources: dict) -> str:
    """A line of shell that gives a process all its processors: Snakemake left it the one thread of a job that waits."""
    count = int(resources.get("cpus_per_task", 1))
    return "export " + " ".join(f"{name}_NUM_THREADS={count}" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR"))


def visible_gpus(count: int) -> list[int]:
    """Numbers of the GPUs that a local job may use: those that this process may, else the first ones."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named in ("", "-1"):  # the user hides them all
        return []
    given = (named or "").split(",")
    return [int(number) for number in given] if all(number.isdigit() for number in given) else list(range(count))


@contextlib.contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Hide the job that this process may itself be a part of; keep what the user set for Slurm's commands."""
    kept = {name: value for name, value in os.environ.items() if name == "SLURM_CONF" or name.startswith("SBATCH_")}
    with submitit.helpers.clean_env():
        os.environ.update(kept)
        yield
