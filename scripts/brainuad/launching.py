"""Where a training runs: in this process, in one of its own that is started again as on a cluster, or as a Slurm job.

A launcher other than ``inline`` submits one job for a run folder, waits for it through its requeues, and moves what it
made to its place. At any time the job is found again, never submitted twice: one launcher at a time holds the lock of
the folder; the job is on record there, as a file; should the record be missing, Slurm is asked for its name; and of two
jobs of one name Slurm would run one after the other.

In the folder ``submitit`` beside the weights lie the lock, the record (``job.json``), the job's own logs
(``<job>_<process>_log.out``), and while it runs submitit's files, its starts (``starts.json``) and the job's results
(``outputs``). Record and results stay, as hard links, until ``records.forget`` is told that Snakemake knows of them:
it may be killed before it has noted that the training is done, and then deletes what it was given.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from brainuad.fingerprint import fingerprint
from brainuad.jobs import AGAIN, Local, Slurm, Task
from brainuad.records import Record, read_record, write_record
from brainuad.runtime import announce, tell
from brainuad.slurm import ACTIVE, Unreachable, advice, is_full, is_silence
from brainuad.starts import FruitlessStartsError

__all__ = ["LaunchError", "launch"]

INPUTS = ("upstream", "weights", "trunk")
OUTPUTS = ("model", "description", "history", "cost")
POLL_SECONDS = 20  # between two looks at a job; the resource poll_seconds changes it
PATIENCE = 3, 15  # looks, seconds at least, until an end without a result is believed: a requeue passes through one
LOCK_SECONDS = 15  # the launcher of a killed Snakemake ends within a second or two
ROOM_SECONDS = 24 * 3600  # to wait for a place among the jobs that Slurm allows a user
LARGEST_LOSSES = 3  # jobs in a row that were lost without a new checkpoint; more than that is no accident
LARGEST_RAISES = 2  # doublings of the memory: four times the first guess is a wrong guess
LINES = 30  # of a job's log to show


class LaunchError(SystemExit):
    """A training that will not be started or finished; uncaught, its sentence is all that the user is shown."""


def launch(arguments: dict, resources: dict) -> None:
    """Train one model by the launcher that the resources name.

    Args:
        arguments: of ``training.train``.
        resources: ``launcher`` (``inline``, ``local`` or ``slurm``), ``nodes``, ``tasks_per_node`` (processes, one a
            GPU), ``runtime`` (minutes), and for Slurm what ``slurm.request`` takes.

    Raises:
        LaunchError: the training failed, was cancelled, or must not be started.
    """
    folder = Path(arguments["model"]).parent / "submitit"
    if resources["launcher"] != "slurm":
        refuse_beside_slurm(folder)
    if resources["launcher"] == "inline":
        from brainuad.training import train  # seconds and hundreds of megabytes, which a waiting launcher spares

        train(**arguments)
        return
    folder.mkdir(parents=True, exist_ok=True)
    cluster = {"local": Local, "slurm": Slurm}[resources["launcher"]](folder, resources)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with locked(folder / "lock"):
            Launch(folder, arguments, resources, cluster).run()
    except LaunchError as error:
        tell(str(error).splitlines()[0])  # all of it goes to the log
        raise


def refuse_beside_slurm(folder: Path) -> None:
    """Refuse to train in a run whose record names a Slurm job that may be at work there.

    Raises:
        LaunchError: it is, or Slurm does not answer.
    """
    title, record = read_record(folder) or (None, None)
    if title != Slurm.title or record.collected:
        return
    job_id = record.job_id
    try:
        if not Slurm(folder, {}).is_active(job_id):
            return
        reason = "still trains this model"
    except Unreachable as error:
        reason = f"may still train this model ({error}; remove {folder / 'job.json'} if it does not)"
    raise LaunchError(
        f"{folder.parent}: Slurm job {job_id} {reason}: set training.launcher to slurm to wait for it, or end it "
        f"by `scancel {job_id}`."
    )


class Launch:
    """One training from its submission, or from finding it again, to its outputs."""

    def __init__(self, folder: Path, arguments: dict, resources: dict, cluster: Local | Slurm):
        self.folder, self.arguments, self.cluster = folder, arguments, cluster
        run = folder.parent
        self.checkpoint, self.starts = run / "checkpoint.pt", folder / "starts.json"
        self.staged = {name: folder / "outputs" / Path(arguments[name]).name for name in OUTPUTS}
        path = hashlib.sha1(str(run.absolute()).encode()).hexdigest()[:12]
        self.name = f"train-{run.parent.name}-{run.name}-{path}"
        weights = [arguments.get(name) for name in ("upstream", "weights")]
        self.fingerprint = fingerprint(arguments["settings"], arguments["seed"], arguments["samples"], weights)
        self.memory_mb = int(resources.get("mem_mb", 0))
        self.poll, self.silent = resources.get("poll_seconds", POLL_SECONDS), False
        self.raises = 0  # of the memory, that an earlier launcher had to make

    def run(self) -> None:
        """Have the training done, whatever has been done of it already."""
        record = self.find()
        try:
            if record is None:
                self.starts.unlink(missing_ok=True)
                record = self.submit(raises=self.raises)
            while not record.collected:
                ended = self.wait(record)
                if ended is None:
                    break
                ended, record = (record, ended), None  # while there is no other job, none goes on
                record = self.submit_again(*ended)
        except KeyboardInterrupt:
            left = self.cluster.leave(record.job_id) if record else f"{self.folder.parent}: no job was submitted."
            raise LaunchError(left) from None
        self.collect(record)

    def find(self) -> Record | None:
        """The job that is at work on this training, or has ended, well or not, while nobody looked.

        Raises:
            LaunchError: Slurm does not answer, or a job for other settings is at work in this folder.
        """
        title, record = read_record(self.folder) or (None, None)
        if record is not None and title != self.cluster.title and not record.collected:
            record = None
        try:
            queued = self.cluster.find(self.name)
            ended = record is not None and (record.collected or record.told)
            if record is not None and (ended or not self.cluster.is_active(record.job_id)):
                if queued is None and self.is_news(record):
                    how = "finished" if self.is_done(record) else "ended without finishing"
                    announce(f"{self.cluster.title} {record.job_id} has {how} {self.folder.parent} meanwhile.")
                    return record
                self.raises = self.raises_needed(record)
                record = None
        except Unreachable as error:
            raise LaunchError(
                f"{self.folder.parent}: {error}, and a job may be in the queue already, so none is submitted: run "
                "Snakemake again when Slurm answers."
            ) from None
        if record is None and (queued is None or not self.cluster.can_run(queued.job_id)):
            return None
        if record is None:  # killed between the submission and its record
            record = Record(queued.job_id, queued.comment, self.memory_mb, checkpoint=self.saved())
        if record.fingerprint != self.fingerprint:
            raise LaunchError(
                f"{self.folder.parent}: {self.cluster.title} {record.job_id} still trains this model with other "
                f"settings or samples: wait for it, or end it by `scancel {record.job_id}` and run Snakemake again."
            )
        self.write(record)
        announce(f"{self.cluster.title} {record.job_id} trains {self.folder.parent} already: found again.")
        return record

    def raises_needed(self, record: Record) -> int:
        """How often an earlier launcher raised the memory of this training, if the user asks for as much as then."""
        same = record.fingerprint == self.fingerprint and record.memory_mb == self.memory_mb * 2**record.raises
        return record.raises if same and not record.collected else 0

    def is_news(self, record: Record) -> bool:
        """Whether a job that has ended is not just to be begun anew: it is done, or nobody was told how it ended."""
        if record.fingerprint != self.fingerprint or self.is_done(record):
            return record.fingerprint == self.fingerprint
        unseen = not (record.collected or record.told)
        return unseen and (self.cluster.outlives or bool(self.result(record.job_id)))

    def is_done(self, record: Record) -> bool:
        """Whether a job has finished the training and its outputs are all here."""
        outputs = all(path.exists() for path in self.staged.values())
        return outputs and (record.collected or self.result(record.job_id) == "")

    def submit(self, losses: int = 0, raises: int = 0) -> Record:
        """Hand a new job to the cluster and put it on record."""
        paths = {**{name: self.arguments.get(name) for name in INPUTS}, **self.staged, "checkpoint": self.checkpoint}
        shutil.rmtree(self.folder / "outputs", ignore_errors=True)
        for stale in self.folder.glob("*_result.pkl"):
            stale.unlink()  # numbers of jobs come again, after a reset of the cluster or, of processes, in a container
        (self.folder / "outputs").mkdir()
        paths = {name: Path(path).absolute() if path else None for name, path in paths.items()}
        samples = [Path(folder).absolute() for folder in self.arguments["samples"]]
        task = Task({**self.arguments, **paths, "samples": samples}, starts=self.starts.absolute())
        memory_mb, saved = self.memory_mb * 2**raises, self.saved()
        job_id = self.submit_when_there_is_room(task, memory_mb)
        record = Record(job_id, self.fingerprint, memory_mb, losses, raises, saved)
        self.write(record)
        announce(f"{self.cluster.title} {job_id} trains {self.folder.parent}; log: {self.log(job_id)}")
        return record

    def submit_when_there_is_room(self, task: Task, memory_mb: int) -> str:
        """Submit, if need be when one of the jobs has ended that Slurm allows a user; returns the job's id."""
        began = None
        while True:
            try:
                return self.cluster.submit(task, self.name, self.fingerprint, memory_mb)
            except (RuntimeError, ValueError) as error:
                said = str(error).strip()
                if not is_full(said) or (began and time.monotonic() - began > ROOM_SECONDS):
                    raise LaunchError(f"{self.folder.parent}: {self.refusal(said)}") from None
            if began is None:
                began, limit = time.monotonic(), next(filter(is_full, said.splitlines()))
                announce(
                    f"{self.folder.parent}: Slurm takes no more jobs of yours for now ({limit}): asked again every "
                    f"{3 * self.poll:g} seconds for {ROOM_SECONDS / 3600:g} hours. Fewer `jobs` in the profile leave "
                    "room for trainings."
                )
            time.sleep(3 * self.poll)

    def refusal(self, error: str) -> str:
        """Why no job was submitted and what to do, by what the cluster said to it."""
        try:
            queued = self.cluster.find(self.name)
            if queued is not None:  # taken by a controller too busy to say so, but submitit has no files for it
                self.cluster.cancel(queued.job_id)
            silent = queued is not None or is_silence(error)
        except Unreachable:
            silent = True
        if silent:
            return f"no job was submitted, as Slurm does not answer: run Snakemake again when it does. {error}"
        if is_full(error):
            return f"Slurm has taken no more jobs for {ROOM_SECONDS / 3600:g} hours: run Snakemake again later. {error}"
        return f"no job could be submitted; correct the resources of the rule train in the profile. {error}"

    def submit_again(self, record: Record, ended: str) -> Record:
        """A new job in place of one that ended without a result.

        Args:
            record: of the old one.
            ended: its last state; empty when the cluster has forgotten it.

        Raises:
            LaunchError: it would end the same way, or was ended on purpose.
        """
        if ended == "CANCELLED":
            raise self.failure(record, "was cancelled: run Snakemake again to submit it anew, from its checkpoint")
        further = self.saved() != record.checkpoint  # the loss of a job that got further is none in a row
        losses = 0 if further else record.losses
        self.cluster.cancel(record.job_id)  # lest Slurm have second thoughts when the lost node is back
        if ended == "OUT_OF_MEMORY" and record.memory_mb != self.memory_mb * 2**record.raises:
            announce(f"{self.cluster.title} {record.job_id} had too little memory, which has been changed since.")
            self.starts.unlink(missing_ok=True)
            return self.submit(losses)
        if ended == "OUT_OF_MEMORY":
            if record.raises == LARGEST_RAISES:
                raise self.failure(record, f"had too little memory with {record.memory_mb} MB: raise mem_mb")
            announce(f"{self.cluster.title} {record.job_id} needs more than {record.memory_mb} MB: it gets twice that.")
            self.starts.unlink(missing_ok=True)  # those with too little memory say nothing about the next
            return self.submit(losses, record.raises + 1)
        if ended in ("TIMEOUT", "DEADLINE"):
            if not further:
                raise self.failure(record, "reached its time limit without a checkpoint: raise runtime")
            announce(
                f"{self.cluster.title} {record.job_id} reached its time limit: the next goes on from its checkpoint."
            )
            return self.submit(losses, record.raises)
        if losses == LARGEST_LOSSES:
            often = f"ended as {ended or 'unknown to the cluster'} without a result, as did {losses} before it"
            raise self.failure(record, often)
        announce(f"{self.cluster.title} {record.job_id} was lost ({ended or 'unknown'}): another takes its place.")
        return self.submit(0 if further else losses + 1, record.raises)

    def wait(self, record: Record) -> str | None:
        """Wait for the end of a job through its requeues.

        Returns:
            None when it has finished the training, else the state that it ended in without a result.

        Raises:
            LaunchError: the training failed by an exception of its own, whose traceback it shows.
        """
        last, since = None, None
        while (failure := self.result(record.job_id)) is None:
            state = self.look(record.job_id)
            why = self.cluster.reason(record.job_id) if state == "PENDING" else ""
            if (state, why) != last:
                cure = advice(why, record.job_id)
                say = announce if cure else print
                what = f"{self.cluster.title} {record.job_id}: {state or 'unknown'} {why}".rstrip()
                say(f"{time.strftime('%H:%M:%S')} {what}{cure and f' ({cure})'}")
            last = state, why
            if state in ACTIVE or state == "no answer":
                since = None
            else:
                since = since or time.monotonic()
                looks, least = PATIENCE
                if time.monotonic() - since >= self.cluster.patience * max(least, looks * self.poll):
                    return state
            time.sleep(self.poll)
        if failure == AGAIN:
            return "TIMEOUT"
        if failure:
            self.cluster.cancel(record.job_id)  # other processes of the job may wait for the one that failed
            # A traceback says where; that of a training which was not begun would say nothing more than its message.
            message = failure.rpartition(f"{FruitlessStartsError.__name__}: ")[2]
            raise self.failure(record, "failed", message)
        return None

    def look(self, job_id: str) -> str:
        """State of a job; ``no answer`` is none. The user is told when answers stop, and when they come again."""
        try:
            state = self.cluster.state(job_id)
        except Unreachable as error:
            say, self.silent = print if self.silent else announce, True
            say(f"{time.strftime('%H:%M:%S')} {error}: the job {job_id} is left alone and asked for again.")
            return "no answer"
        if self.silent:
            announce(f"{time.strftime('%H:%M:%S')} there are answers again about the job {job_id}.")
        self.silent = False
        return state

    def result(self, job_id: str) -> str | None:
        """What a job has left: None for nothing yet, an empty text for success, ``AGAIN``, else the first traceback."""
        os.utime(self.folder)  # on network file systems this makes the listing new
        results = sorted(self.folder.glob(f"{job_id}_*_result.pkl"), key=lambda path: path.stat().st_mtime_ns)
        for path in results:
            outcome, value = pickle.loads(path.read_bytes())
            if outcome != "success" or value is not None:
                return value
        return "" if self.folder / f"{job_id}_0_result.pkl" in results else None

    def collect(self, record: Record) -> None:
        """Put the outputs in their places, each at once, keep them here too, and clear up what else there is."""
        for name, source in self.staged.items():
            target = Path(self.arguments[name])
            temporary = target.with_name(target.name + ".new")
            temporary.unlink(missing_ok=True)
            try:
                os.link(source, temporary)
            except OSError:  # a file system without hard links
                shutil.copyfile(source, temporary)
            os.utime(temporary)  # newer than what it was made from, also if that was touched since
            os.replace(temporary, target)
        self.write(dataclasses.replace(record, collected=True))
        for path in (self.starts, *self.folder.glob("*.pkl"), *self.folder.glob("*.sh")):
            path.unlink(missing_ok=True)
        announce(f"{self.cluster.title} {record.job_id} has trained {self.folder.parent}.")

    def failure(self, record: Record, what: str, details: str = "") -> LaunchError:
        """A sentence about a job, with its traceback or the end of its log, and the path of that; it is said once."""
        self.write(dataclasses.replace(record, told=True))
        log = self.log(record.job_id)
        if not details:
            lines = log.read_text(errors="replace").splitlines()[-LINES:] if log.exists() else []
            details = "\n".join(["Last lines of its log:", *lines] if lines else ["It wrote no log."])
        return LaunchError(
            f"{self.cluster.title} {record.job_id} of {self.folder.parent} {what}; log: {log}\n{details}"
        )

    def log(self, job_id: str) -> Path:
        """Where the first process of a job prints to."""
        return self.folder / f"{job_id}_0_log.out"

    def saved(self) -> int:
        """Time of the checkpoint, ns; 0 when there is none."""
        return self.checkpoint.stat().st_mtime_ns if self.checkpoint.exists() else 0

    def write(self, record: Record) -> None:
        """Put a job on record."""
        write_record(self.folder, self.cluster.title, self.name, record)


@contextlib.contextmanager
def locked(path: Path, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Hold the lock of a run folder.

    Raises:
        LaunchError: another launcher holds it.
    """
    with path.open("w") as file:
        for _ in range(LOCK_SECONDS):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                sleep(1)
            except OSError:  # a file system without locks; the record and the name of the job still protect
                print(f"{path} cannot be locked on this file system: start no second Snakemake here.", flush=True)
                break
        else:
            raise LaunchError(
                f"{path.parent.parent}: another Snakemake waits for this training: let it, or end it first."
            )
        yield
