"""Whether a job that was given a GPU can use it: never the CPU in its place without a word."""

import os
from pathlib import Path

import torch

__all__ = ["automatic_device"]

DRIVER = Path("/proc/driver/nvidia")  # there while the driver is loaded
FEIGNED = "BRAINUAD_FEIGNED_GPUS"  # set by tests whose Slurm has GPUs of which the machine knows nothing
GIVEN = ("CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS")


def automatic_device(name: str = "auto") -> str:
    """``cuda`` or ``cpu``; ``auto`` is the GPU where there is one.

    Raises:
        ValueError: torch can use no GPU, but one was asked for, or given to this job.
    """
    if name == "cpu" or torch.cuda.is_available():
        return "cuda" if name == "auto" else name
    given = next((value for key in GIVEN if (value := os.environ.get(key, "")) not in ("", "-1", "NoDevFiles")), None)
    if not os.environ.get(FEIGNED) and given and ("SLURM_JOB_ID" in os.environ or DRIVER.exists()):
        raise ValueError(f"GPU {given} was given to this job, but {lack()} or set training.device to cpu.")
    if name == "cuda":
        why = f" ({lack().rstrip(',')})" if DRIVER.exists() else ""
        raise ValueError(
            f"training.device is cuda but this machine has no GPU that torch can use{why}: set it to auto."
        )
    if given or DRIVER.exists():
        print(f"This machine seems to have a GPU but torch {torch.__version__} can use none: it computes on the CPU.")
    return "cpu"


def lack() -> str:
    """Why torch can use no GPU, as far as can be known, and what to do; the sentence goes on with another way out."""
    if torch.version.cuda is None:
        return f"the installed torch {torch.__version__} is built without CUDA: install a build with it,"
    return (
        f"torch {torch.__version__} can use none: the driver of the node may be too old for CUDA {torch.version.cuda}, "
        "or not loaded (`nvidia-smi` in a job there prints the newest CUDA that it can): install a build of torch for "
        "that CUDA, leave the node out by --exclude in slurm_extra,"
    )
