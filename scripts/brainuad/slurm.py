"""What is asked of Slurm, and how its answers are read. No answer is never taken for one."""

import contextlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "ACTIVE",
    "Queued",
    "Unreachable",
    "advice",
    "check_resources",
    "find",
    "is_full",
    "is_silence",
    "queued_state",
    "ran_out_of_memory",
    "reason",
    "request",
    "signal_seconds",
    "state",
]

# What squeue says of a job that runs, will run, or is on its way from one to the other.
ACTIVE = {
    "COMPLETING",
    "CONFIGURING",
    "PENDING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESIZING",
    "RUNNING",
    "RESV_DEL_HOLD",
    "SIGNALING",
    "SPECIAL_EXIT",
    "STAGE_OUT",
    "STOPPED",
    "SUSPENDED",
}
SILENCE = ("contact slurm controller", "timed out", "not responding", "standby mode", "Zero Bytes were transmitted")
# What sbatch says where a user has as many jobs as the cluster allows, or the controller as many as it can hold.
FULL = re.compile(r"(QOS|Assoc)\w*SubmitJob|temporarily unable to accept job|Resource temporarily unavailable")
# Why a job waits that no end of another job will let run: limits on one job, on a budget, and what is not there.
NEVER = re.compile(
    r"(Partition(TimeLimit|NodeLimit|Config)|BadConstraints|InvalidAccount|InvalidQOS|AccountNotAllowed"
    r"|QOSNotAllowed|MaxMemPerLimit|ReservationDeleted|DependencyNeverSatisfied|QOSMin\w+"
    r"|(Assoc|QOS)\w*(PerJob|WallDuration|(?<!Run)Minutes|Billing|TimeLimit)\w*)"
)
# What Slurm writes into the log of a step that it, or the kernel for it, has ended for its memory.
MEMORY = ("oom-kill event", "oom_kill event", ": Out Of Memory", "exceeded memory limit")
# Options of sbatch that a training lives by, and those that a resource of the rule or the profile gives.
OURS = {"array", "comment", "dependency", "error", "job-name", "no-requeue", "open-mode", "output", "requeue", "signal"}
OURS |= {"clusters", "wrap"}  # of another cluster's jobs squeue here says nothing
RESOURCES = {"account", "constraint", "cpus-per-task", "gpus", "gpus-per-node", "gres", "mem", "nodes", "ntasks"}
RESOURCES |= {"mem-per-cpu", "mem-per-gpu", "ntasks-per-node", "partition", "qos", "time"}
# Resources that the executor knows and a training does not take, and what says it instead.
UNUSED = {
    "clusters": "a training is submitted to the cluster that Snakemake runs on",
    "cpus_per_gpu": "`cpus_per_task` says how many processors each process, and so each GPU, has",
    "mem_mb_per_cpu": "`mem_mb` says how much memory a training has on each node",
}
PATIENCE = 120  # seconds for one answer of a busy controller


class Unreachable(RuntimeError):
    """Slurm did not answer, which says nothing about any job."""


class Queued(NamedTuple):
    """A job of ours in the queue, with the comment it was submitted with."""

    job_id: str
    comment: str


def ask(*command: str) -> subprocess.CompletedProcess:
    """Run one of Slurm's commands.

    Raises:
        Unreachable: it is not there, or took too long.
    """
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unreachable(f"{command[0]} gave no answer ({error})") from None


def is_silence(error: str) -> bool:
    """Whether a command failed for want of an answer, and not because Slurm refused what was asked."""
    return any(words in error for words in SILENCE)


def is_full(error: str) -> bool:
    """Whether a job was refused only because there are so many: a later try may be taken."""
    return FULL.search(error) is not None


def advice(reason: str, job_id: str) -> str:
    """What to do about a job that waits for a reason that does not pass by itself; empty where it may pass."""
    if "held" in reason.lower():
        return f"`scontrol release {job_id}` when its cause is mended"
    if NEVER.search(reason):
        return (
            "as it is Slurm will not start it: correct the resources of the rule train in the profile, `scancel "
            f"{job_id}` and run Snakemake again"
        )
    return ""


def state(job_id: str) -> str:
    """State of a job in Slurm's capitals, or an empty text when Slurm answers that it does not know it any more.

    squeue is asked first, which needs no accounting and remembers a job for some minutes after its end, then sacct.

    Raises:
        Unreachable: neither gave an answer.
    """
    if queued := queued_state(job_id):
        return queued
    if shutil.which("sacct"):
        account = ask("sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={job_id}", "--format=State")
        if account.returncode == 0 and account.stdout.strip():
            return account.stdout.splitlines()[-1].split()[0]  # "CANCELLED by 1000"
        if account.returncode and "disabled" not in account.stderr:
            raise Unreachable(f"sacct failed: {account.stderr.strip()}")
    return ""


def queued_state(job_id: str) -> str:
    """State of a job by squeue alone, needing no accounts; empty where it has ended some minutes ago, or never was.

    Raises:
        Unreachable: squeue gave no answer.
    """
    queue = ask("squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%T")
    if queue.returncode and "Invalid job id" not in queue.stderr:
        raise Unreachable(f"squeue failed: {queue.stderr.strip()}")
    return (queue.stdout.split() or [""])[0]


def ran_out_of_memory(log: Path) -> bool:
    """Whether the log of a job that has failed ends with Slurm saying that a step took too much memory.

    The processes of a training are such a step. Its state is OUT_OF_MEMORY, but that of the job may only be FAILED.
    """
    lines = log.read_text(errors="replace").splitlines()[-20:] if log.exists() else []
    return any(words in line for line in lines for words in MEMORY)


def reason(job_id: str) -> str:
    """Why a job waits, in Slurm's words; empty when it does not, or there is no answer."""
    with contextlib.suppress(Unreachable):
        queue = ask("squeue", "--noheader", "--states=PENDING", f"--jobs={job_id}", "--format=%r")
        return queue.stdout.strip().replace("None", "") if queue.returncode == 0 else ""
    return ""


def find(name: str) -> Queued | None:
    """The youngest job of this user and name that has not ended.

    Raises:
        Unreachable: squeue gave no answer.
    """
    queue = ask("squeue", "--noheader", "--me", f"--name={name}", "--format=%A|%k")
    if queue.returncode:
        raise Unreachable(f"squeue failed: {queue.stderr.strip()}")
    jobs = [Queued(*line.strip().split("|", 1)) for line in queue.stdout.splitlines() if line.strip()]
    return max(jobs, key=lambda job: int(job.job_id), default=None)


def request(resources: dict, memory_mb: int) -> dict:
    """What to ask of Slurm for a training, as submitit's ``SlurmExecutor`` takes it.

    Args:
        resources: of the rule and the profile. ``runtime`` (minutes), ``cpus_per_task``, ``tasks_per_node``, ``nodes``
            and ``gpu`` say what is needed; ``slurm_partition``, ``slurm_account``, ``qos``, ``constraint``,
            ``gpu_model``, ``gres`` and ``slurm_extra`` (any other options of sbatch) where the cluster has it.
        memory_mb: MiB on each node.

    Raises:
        ValueError: ``slurm_extra`` has an option that is ours.
    """
    tasks, processors = int(resources.get("tasks_per_node", 1)), int(resources.get("cpus_per_task", 1))
    minutes = int(resources["runtime"])
    wanted = {
        "partition": resources.get("slurm_partition"),
        "account": resources.get("slurm_account"),
        "qos": resources.get("qos"),
        "constraint": resources.get("constraint"),
    }
    if int(resources.get("gpu", 0)):
        gres, model = resources.get("gres"), resources.get("gpu_model")
        wanted |= {"gres": gres} if gres else {"gpus_per_node": f"{model}:{tasks}" if model else tasks}
    return {
        **{name: value for name, value in wanted.items() if value},
        "time": minutes,
        "signal_delay_s": signal_seconds(60 * minutes),
        "nodes": int(resources.get("nodes", 1)),
        "ntasks_per_node": tasks,
        "cpus_per_task": processors,
        "mem": f"{memory_mb}M",
        # srun does not take the number of processors over from sbatch since Slurm 22.05. One process that fails
        # must not leave the others waiting for it.
        "srun_args": [f"--cpus-per-task={processors}", "--kill-on-bad-exit=1"],
        "additional_parameters": {
            "signal": f"USR2@{signal_seconds(60 * minutes)}",  # whatever SUBMITIT_PREEMPT_SIGNAL says: a job hears this
            "requeue": True,
            **options(str(resources.get("slurm_extra") or "")),
        },
    }


def signal_seconds(seconds: float) -> int:
    """How long before the end of a job of this length it is told to save: two minutes, of short jobs a quarter.

    Slurm itself may be a minute early.
    """
    return max(1, int(min(120, seconds / 4)))


def check_resources(rule: str, resources: dict) -> None:
    """Refuse what the profile says of a rule where Slurm, or the executor that submits the other rules, would.

    Args:
        rule: whose resources they are.
        resources: texts and numbers by name.

    Raises:
        ValueError: a type of GPU that the executor does not take, what is said in another place, or not of trainings.
    """
    model = str(resources.get("gpu_model", "")).strip("'\"")
    if re.fullmatch(r"\S*[^A-Za-z0-9_.\s]\S*", model):
        raise ValueError(
            f"`gpu_model` of rule {rule} is {model!r}, but the executor takes letters, digits, _ and . only: remove it "
            "and choose the GPUs by `constraint`."
        )
    if rule == "train" and "gpu" in resources:
        raise ValueError(
            "The profile says `gpu` of rule train, but how many GPUs a training takes is said by `training.gpus`, "
            "`training.nodes` and `training.device` of the configuration: remove it."
        )
    for name in sorted(UNUSED.keys() & set(resources)) if rule == "train" else ():
        raise ValueError(f"The profile says `{name}` of rule train, which takes no such resource: {UNUSED[name]}.")
    if rule == "train":
        options(str(resources.get("slurm_extra") or ""))


def options(text: str) -> dict[str, str | bool]:
    """The options in a text such as ``--exclude=n1 --exclusive``, by name; a flag is True.

    Raises:
        ValueError: one of them is short, or trainings live by it, or it has a resource of its own.
    """
    found, name = {}, None
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"slurm_extra of rule train, {text!r}, cannot be read: {error}.") from None
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            found[name] = value if equals else True
        elif word.startswith("-"):
            raise ValueError(f"slurm_extra of rule train: write {word} in full, as --exclude=node17 in place of -x.")
        elif name:
            found[name], name = word, None
        else:
            raise ValueError(f"slurm_extra of rule train: {word} belongs to no option.")
    if taken := OURS & set(found):
        raise ValueError(
            f"slurm_extra of rule train must not hold --{min(taken)}: by that a training is found again, saved and "
            "requeued."
        )
    if taken := RESOURCES & set(found):
        raise ValueError(
            f"slurm_extra of rule train must not hold --{min(taken)}: say it by the resource that profiles/README.md "
            "names for it."
        )
    return found
