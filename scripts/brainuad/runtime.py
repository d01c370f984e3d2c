"""What every job shares: one log file, and an end when its workflow ends."""

import os
import sys
import threading
import time
from pathlib import Path

import psutil

__all__ = ["start"]


def start(snakemake) -> None:
    """Begin a job: send all output to its log and end it when Snakemake dies.

    A door calls this before it imports the step: imports take seconds, in which Snakemake may die.

    Args:
        snakemake: the job's object, as Snakemake hands it to a script.
    """
    send_output_to(Path(snakemake.log[0]))
    end_with_workflow()


def send_output_to(log: Path) -> None:
    """Redirect the descriptors of stdout and stderr, so that the output of C++ code (ITK) reaches the log too."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)


def end_with_workflow(seconds: float = 1.0) -> None:
    """Watch the Snakemake process above this job and exit with 143 when it is gone, or was gone before the job began.

    A killed Snakemake leaves its jobs running; without this a second run would find two jobs writing one file.
    """
    workflow = next((p for p in psutil.Process().parents() if "snakemake" in " ".join(p.cmdline())), None)

    def watch() -> None:
        while workflow is not None and workflow.is_running() and workflow.status() != psutil.STATUS_ZOMBIE:
            time.sleep(seconds)
        print("The workflow has ended: this job ends too.", flush=True)
        os._exit(143)

    threading.Thread(target=watch, daemon=True).start()
