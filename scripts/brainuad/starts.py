"""How often a training is begun without getting further, so that a node that fails again and again comes to an end.

Slurm itself starts a job again after the failure of its node or a preemption, under the same number, and the launcher
sees nothing of it but a job that waits. So the job counts for itself, in a file that outlives it.
"""

import json
import os
import socket
import time
from pathlib import Path

from brainuad.records import replace_file

__all__ = ["FruitlessStartsError", "count_start"]

LARGEST = 3  # starts in a row that got no further; more than that is no accident


class FruitlessStartsError(RuntimeError):
    """A training that is not begun again; the message says what happened, where the logs are and what to do."""


def count_start(path: Path, checkpoint: Path, job_id: str) -> None:
    """Note that a training begins. A checkpoint written since the last start wipes out all that was noted before.

    Args:
        path: file of the starts since the checkpoint was written; removed, it is counted anew.
        checkpoint: of the training; every one that is written is at least one step further.
        job_id: of this start. Logs are beside ``path``, by its name.

    Raises:
        FruitlessStartsError: so many starts have got no further than the checkpoint, or the beginning, already.
    """
    saved = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    starts = noted_starts(path, saved)
    if len(starts) >= LARGEST:
        raise FruitlessStartsError(explain(starts, saved, path.parent))
    start = {
        "job": job_id,
        "restart": int(os.environ.get("SLURM_RESTART_COUNT", 0)),
        "nodes": os.environ.get("SLURM_JOB_NODELIST") or socket.gethostname(),
        "time": clock(time.time()),
    }
    replace_file(path, {"checkpoint": saved, "starts": [*starts, start]})


def noted_starts(path: Path, saved: int) -> list[dict]:
    """The starts since that checkpoint; none where the file is not there or, after a crash, cannot be read."""
    try:
        noted = json.loads(path.read_text())
        return noted["starts"] if noted["checkpoint"] == saved else []
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []


def explain(starts: list[dict], saved: int, logs: Path) -> str:
    """The message of the error.

    Args:
        starts: rows with ``job``, ``restart``, ``nodes`` and ``time``.
        saved: time of the checkpoint, ns; 0 when there is none.
        logs: folder of the logs.
    """
    reached = f"its checkpoint of {clock(saved / 1e9)}" if saved else "its beginning, as no checkpoint was written"
    each = "; ".join(f"job {row['job']}, restart {row['restart']}, on {row['nodes']}, {row['time']}" for row in starts)
    nodes, jobs = (",".join(dict.fromkeys(row[key] for row in starts)) for key in ("nodes", "job"))
    names = ", ".join(str(logs / f"{job}_0_log.out") for job in jobs.split(","))
    return (
        f"This training was started {len(starts)} times in a row without getting further than {reached} ({each}). It "
        "raised no exception, so each time its node failed or it was killed or preempted. "
        f"See {names} and `sacct --duplicates --jobs={jobs}`. Leave a broken node out (slurm_extra: "
        f'"--exclude={nodes}" under train in the profile), or have checkpoints written more often '
        "(training.checkpoint_every); then run Snakemake again: it goes on from there."
    )


def clock(seconds: float) -> str:
    """Local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
