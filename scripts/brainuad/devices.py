"""The device that a job computes on: whether the installed torch can use it, and in which precision.

Attention takes care of itself: torch's ``scaled_dot_product_attention`` picks among the back-ends that a card has
(flash attention needs capability 8.0; a V100 gets the memory-efficient one), so nothing here or in the models
forces one.
"""

import os
import re

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment

from brainuad.gpus import automatic_device

__all__ = ["accelerate", "automatic_precision", "check_kernels", "has_kernels"]

Capability = tuple[int, int]  # (major, minor): (7, 0) is a V100, (8, 0) an A100, (9, 0) an H100
TENSOR_CORES, BFLOAT16 = (7, 0), (8, 0)
FIRST_OF_CUDA_12_8, FIRST_OF_CUDA_12_6 = (7, 0), (5, 0)  # what the builds of torch 2.10 reach back to
CUDA_12_8 = ["sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]  # what that build has code for


def accelerate(settings: dict, gpus: int = 1, nodes: int = 1) -> Fabric:
    """Device and precision by the ``training`` section; ``auto`` takes the GPU where there is one.

    With more than one process in all, each of them calls this, with its place (RANK, LOCAL_RANK, WORLD_SIZE,
    MASTER_ADDR, MASTER_PORT) in the environment, and waits here for the others.

    Args:
        settings: ``device`` and ``precision``.
        gpus: processes on each node, one a GPU; on a CPU they share its cores.
        nodes: machines.

    Raises:
        ValueError: a GPU or a precision is asked for that is not there, or torch cannot use the GPU that was given.
    """
    device, precision = automatic_device(settings.get("device", "auto")), settings.get("precision", "auto")
    if device == "cuda":
        precision = prepare_gpu(precision, int(os.environ["LOCAL_RANK"]) if gpus * nodes > 1 else 0)
    elif precision == "16-mixed":
        raise ValueError("training.precision is 16-mixed, which needs a GPU: set it to auto.")
    elif precision == "auto":
        precision = "32-true"
    several = gpus * nodes > 1
    # Left to guess, Fabric would find Slurm, check its task counts and perhaps refuse the job.
    environment = TorchElasticEnvironment() if several else LightningEnvironment()
    fabric = Fabric(
        accelerator=device,
        devices=gpus,
        num_nodes=nodes,
        strategy="ddp" if several else "auto",
        precision=precision,
        plugins=[environment],
    )
    if several:
        fabric.launch()
    return fabric


def prepare_gpu(precision: str, index: int) -> str:
    """Check the GPU of that index; return the precision with ``auto`` decided."""
    count = torch.cuda.device_count()
    if index >= count:
        raise ValueError(f"This process needs GPU number {index} of its node, which has {count}: lower training.gpus.")
    capability = torch.cuda.get_device_capability(index)
    check_kernels(torch.cuda.get_device_name(index), capability, torch.cuda.get_arch_list(), torch.__version__)
    return automatic_precision(capability) if precision == "auto" else precision


def automatic_precision(capability: Capability) -> str:
    """bf16-mixed where it is native (8.0), 16-mixed with tensor cores (7.0: V100), else 32-true.

    Without tensor cores half precision is no faster in convolutions and costs range for nothing.
    """
    if capability >= BFLOAT16:
        return "bf16-mixed"
    return "16-mixed" if capability >= TENSOR_CORES else "32-true"


def has_kernels(capability: Capability, architectures: list[str]) -> bool:
    """Whether code built for these architectures runs on a GPU of this capability.

    Args:
        capability: of the GPU.
        architectures: as ``torch.cuda.get_arch_list`` gives them. ``sm_75`` is machine code, which runs on the
            same major version from its minor version on; ``sm_90a`` on its own version only; ``compute_80`` is
            an intermediate language that the driver translates for any newer GPU.
    """
    for kind, major, minor, suffix in re.findall(r"\b(sm|compute)_(\d+)(\d)([af]?)\b", " ".join(architectures)):
        built = (int(major), int(minor))
        if suffix == "a":
            fits = built == capability
        elif kind == "compute" and not suffix:
            fits = built <= capability
        else:
            fits = built[0] == capability[0] and built <= capability
        if fits:
            return True
    return False


def check_kernels(name: str, capability: Capability, architectures: list[str], version: str) -> None:
    """Refuse a GPU that the installed torch has no code for; else the first step would fail without saying why.

    Raises:
        ValueError: it names the card, what torch has code for and what to install.
    """
    known = [entry for entry in architectures if entry.startswith(("sm_", "compute_"))]
    if not known or has_kernels(capability, known):  # AMD's architectures go by other names
        return
    newest = max((int(major), int(minor)) for major, minor in re.findall(r"_(\d+)(\d)[af]?\b", " ".join(known)))
    if capability > newest:
        cure = "install a newer torch"
    elif capability >= FIRST_OF_CUDA_12_8 and not has_kernels(capability, CUDA_12_8):  # a gap: 11.0 is Thor
        name_of_code = "sm_{}{}".format(*capability)
        cure = (
            f"install a build of torch whose torch.cuda.get_arch_list() names {name_of_code} (of the published builds "
            "only some for CUDA 13 and the processor of that machine do), or set training.device to cpu"
        )
    elif capability >= FIRST_OF_CUDA_12_8:
        cure = "pip install torch==2.10.0, whose CUDA 12.8 build has code from sm_70 (V100) on; CUDA 13 builds have not"
    elif capability >= FIRST_OF_CUDA_12_6:
        cure = "install torch 2.10.0 in its CUDA 12.6 build (cu126), which has code from sm_50 on"
    else:
        cure = "use a newer GPU, or set training.device to cpu"
    raise ValueError(
        f"The GPU {name} is of capability {capability[0]}.{capability[1]} (sm_{capability[0]}{capability[1]}), but the "
        f"installed torch {version} has code for {', '.join(known)} only: {cure}."
    )
