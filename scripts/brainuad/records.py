"""The job of a run folder on record: which one trains the model there, and what became of those before it."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

__all__ = ["Record", "forget", "read_record", "replace_file", "write_record"]


@dataclasses.dataclass
class Record:
    """The job of a run folder, as ``job.json`` keeps it.

    Attributes:
        job_id: of the cluster.
        fingerprint: of the training that it was submitted for.
        memory_mb: that it may use.
        losses: jobs before it that ended by no fault of their own, and without a new checkpoint.
        raises: jobs before it that ran out of memory.
        checkpoint: time of the checkpoint when it was submitted, ns; 0 without one.
        collected: whether it is done and its outputs were put in their places.
        told: whether the user was told that it failed or was cancelled; the next run begins anew.
    """

    job_id: str
    fingerprint: str
    memory_mb: int
    losses: int = 0
    raises: int = 0
    checkpoint: int = 0
    collected: bool = False
    told: bool = False


def read_record(folder: Path) -> tuple[str, Record] | None:
    """The kind of job that is on record in a folder, and the job; None without a record that can be read.

    A node that crashes may leave an empty file. A job that goes on is found by its name all the same.
    """
    try:
        content = json.loads((folder / "job.json").read_text())
        return content["cluster"], Record(**content["record"])
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def write_record(folder: Path, cluster: str, name: str, record: Record) -> None:
    """Replace the record at once; ``name`` is the job's."""
    content = {"cluster": cluster, "name": name, "record": dataclasses.asdict(record)}
    replace_file(folder / "job.json", content)


def replace_file(path: Path, content: dict) -> None:
    """Write JSON that is there whole or not at all, also after a crash of the machine."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("w") as file:
        file.write(json.dumps(content, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def forget(folder: Path) -> None:
    """Remove what a finished training keeps in its folder ``submitit``, as Snakemake has taken note of its outputs."""
    known = read_record(folder)
    if known is not None and known[1].collected:
        (folder / "job.json").unlink()
        shutil.rmtree(folder / "outputs", ignore_errors=True)
