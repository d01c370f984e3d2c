"""What every job shares: its number of threads, one log file, a word to the terminal, an end when its workflow ends."""

import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

import psutil

__all__ = ["announce", "end_with", "start", "tell"]

# Left alone, each of several jobs would use every core: small operations then take many times longer.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

terminal: int | None = None  # descriptor of the stderr that Snakemake gave this job


def start(snakemake) -> None:
    """Begin a job: keep to its threads, send all output to its log and end it when Snakemake dies.

    A door calls this before it imports the step: imports take seconds, in which Snakemake may die, and libraries read
    the number of threads when they are imported.

    Args:
        snakemake: the job's object, as Snakemake hands it to a script.
    """
    os.environ |= dict.fromkeys(THREADS, str(snakemake.threads))
    send_output_to(Path(snakemake.log[0]))
    sys.excepthook = say_why
    end_with(next((p for p in psutil.Process().parents() if "snakemake" in " ".join(p.cmdline())), None))


def send_output_to(log: Path) -> None:
    """Redirect the descriptors of stdout and stderr, so that the output of C++ code (ITK) reaches the log too."""
    global terminal
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    terminal = os.dup(2)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)


def say_why(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The end of a job that failed: the traceback goes to the log; a sentence for the user to the terminal, too."""
    if issubclass(kind, ValueError):
        tell(str(error))
    sys.__excepthook__(kind, error, trace)


def announce(message: str) -> None:
    """Print a line to the log and to the terminal."""
    print(message, flush=True)
    tell(message)


def tell(message: str) -> None:
    """Print a line to the terminal, where the output goes to a log."""
    if terminal is not None:
        os.write(terminal, f"{message}\n".encode())


def end_with(process: psutil.Process | None, seconds: float = 1.0) -> None:
    """Watch the process that this job works for and exit with 143 when it is gone, or was gone before the job began.

    A killed Snakemake leaves its jobs running; without this a second run would find two jobs writing one file.
    """

    def watch() -> None:
        while process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(seconds)
        print("The workflow has ended: this job ends too.", flush=True)
        os._exit(143)

    threading.Thread(target=watch, daemon=True).start()
