"""Where results come from: the code, the packages, the machine, and digests of the tables that went in."""

import hashlib
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

__all__ = ["commit", "digest", "machine", "versions"]

PACKAGES = (
    "brainuad",
    "antspyx",
    "einops",
    "jinja2",
    "lightning-fabric",
    "lpips",
    "matplotlib",
    "monai",
    "nibabel",
    "nilearn",
    "numpy",
    "pandas",
    "safetensors",
    "scikit-image",
    "scikit-learn",
    "scipy",
    "snakemake",
    "submitit",
    "torch",
)


def commit(file: Path) -> str:
    """The commit of the repository that tracks a file, in words where it is not the whole truth or not known."""
    folder = Path(file).parent
    if git(folder, "ls-files", "--error-unmatch", Path(file).name) is None:
        return "unknown: no git repository is at hand"
    name = git(folder, "rev-parse", "HEAD") or "none yet"
    changed = git(folder, "status", "--porcelain", "--untracked-files=no", ":/")
    return f"{name}, with changes that are not committed" if changed else name


def git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None where it fails or is not installed."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of those packages that are installed, and of Python."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Operating system, processor, cores and memory in GiB of the machine that this runs on; not its name."""
    memory = psutil.virtual_memory().total / 2**30
    return f"{platform.platform(terse=True)}, {processor()}, {psutil.cpu_count()} cores, {memory:.0f} GiB of memory"


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
