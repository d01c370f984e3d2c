"""How far a training run has come: shown, kept in a checkpoint, and at what price in memory."""

import os
import pickle
import resource
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

__all__ = ["Progress", "peak_memory", "read_checkpoint", "write_checkpoint"]

SECONDS_BETWEEN_LINES = 10.0
UNREADABLE = (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, OSError, ValueError)


class Progress:
    """Tells epoch, loss, speed and time left: by a bar in a terminal, by a line now and then in a log."""

    def __init__(self, epochs: int, done: float = 0):
        """Begin after ``done`` of ``epochs``; resumed, it starts above 0, maybe amid an epoch."""
        self.epochs, self.first = epochs, done
        self.began = self.printed = time.monotonic()
        self.bar = tqdm(total=epochs, initial=int(done), unit="epoch") if sys.stderr.isatty() else None

    def update(self, epoch: int, loss: float, validation: float | None, images_per_second: float) -> None:
        """Report that ``epoch`` (1, 2, ...) is over.

        In a log file a line appears at each tenth of the epochs and otherwise no sooner than ten seconds
        after the one before.
        """
        terms = f"loss {loss:.4g}" + (f" validation {validation:.4g}" if validation is not None else "")
        if self.bar is not None:
            self.bar.set_postfix_str(terms)
            self.bar.update(1)
            return
        now = time.monotonic()
        tenth = epoch * 10 // self.epochs > (epoch - 1) * 10 // self.epochs
        if not tenth and now - self.printed < SECONDS_BETWEEN_LINES:
            return
        self.printed = now
        done = epoch - self.first  # nothing where only the validation of this epoch was left
        left = f"{clock((now - self.began) / done * (self.epochs - epoch))} left" if done > 0 else "resumed"
        blocks = epoch * 10 // self.epochs
        print(
            f"epoch {epoch}/{self.epochs} [{'#' * blocks}{'.' * (10 - blocks)}] {terms} "
            f"{images_per_second:.3g} images/s {left}",
            flush=True,
        )

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def write_checkpoint(path: Path, state: dict) -> None:
    """Replace a checkpoint at once: a reader finds the old or the new one, never a part.

    Args:
        path: the file.
        state: tensors, numbers, text, lists and dicts only; ``fingerprint`` says which run it is of.
    """
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_checkpoint(path: Path, fingerprint: str) -> dict | None:
    """The state in a checkpoint, on the CPU, loaded without unpickling objects.

    Returns:
        None when there is no file, and, with a printed line, when it is damaged or of another run.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        same = state["fingerprint"] == fingerprint
    except UNREADABLE as error:
        print(f"{path} cannot be read ({type(error).__name__}): training starts anew.", flush=True)
        return None
    if not same:
        print(f"{path} belongs to other settings, samples or code: training starts anew.", flush=True)
        return None
    return state


def peak_memory(device: torch.device) -> float:
    """Largest memory so far in MB (10^6 bytes): of torch on a GPU, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
