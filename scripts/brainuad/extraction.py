"""The brain of a scan: its own mask, found by the template, or by another program, whose word is checked.

The template needs nothing but ANTs (`volumes.brain_mask`). Another program is given a copy of the scan without any text
of its header, and what it writes must lie on the same grid and be as large as brains are.
"""

import os
import subprocess
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import ants
import nibabel
import numpy as np

from brainuad import volumes
from brainuad.extractors import command_line, missing
from brainuad.faults import BadScan, NotInstalled
from brainuad.isolation import follow
from brainuad.reading import load, voxels

__all__ = ["brain_mask", "contradiction"]

FILES = {"input": "scan.nii.gz", "output": "brain.nii.gz", "mask": "brain_bet.nii.gz"}  # as HD-BET names the mask
SAID = 300  # characters of what a program said last


def contradiction(image: ants.ANTsImage, skull_stripped: bool) -> BadScan | None:
    """What speaks against a declaration that the scan is, or is not, skull-stripped; a person may overrule it."""
    volume = volumes.foreground_volume(image)
    if skull_stripped and volume >= volumes.STRIPPED_VOLUME:
        declared, shown, other = "true", "a head", "false"
    elif not skull_stripped and volumes.PLAUSIBLE_VOLUME[0] < volume < volumes.STRIPPED_VOLUME:
        declared, shown, other = "false", "a brain alone", "true"
    else:
        return None
    return BadScan(
        "skull_stripped",
        f"skull_stripped is {declared}, but what stands out from its background has {volume:.0f} ml, as {shown} has; "
        f"set skull_stripped to {other} or null, or take the scan by `include` in config/exclusions.tsv",
    )


def brain_mask(
    image: ants.ANTsImage,
    template: volumes.Template,
    skull_stripped: bool,
    extraction: dict,
    spacing: float = 3.0,
    seed: int = 7,
) -> ants.ANTsImage:
    """Where the brain is: float32, 0 or 1, one filled component on the grid of the image.

    Args:
        extraction: the section ``preprocessing.brain_extraction``; of a skull-stripped scan the own mask is taken,
            whatever it says.
        spacing: of the registration to the template, in mm.
        seed: of that registration.

    Raises:
        BadScan: what was found can not be a brain.
        NotInstalled: the program is not on this machine.
    """
    words = [] if skull_stripped else command_line(extraction)
    if not words:
        return volumes.brain_mask(image, template, skull_stripped, spacing, seed)
    if said := missing(extraction):
        raise NotInstalled(said)
    with TemporaryDirectory() as folder:
        files = {name: Path(folder) / file for name, file in FILES.items()}
        nibabel.save(volumes.to_nifti(image, np.float32), files["input"])
        run(words, files)
        found = read(words[0], files, image)
    return volumes.plausible(found, image, f"head by {words[0]}", "look at what it writes for this scan")


def run(words: list[str], files: dict[str, Path]) -> None:
    """Run the program, without a shell; what it says goes to the log."""
    for name, file in files.items():
        words = [word.replace(f"{{{name}}}", str(file)) for word in words]
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    options["preexec_fn"] = partial(follow, os.getpid())
    try:
        done = subprocess.run(words, **options, text=True, errors="replace")
    except OSError as error:
        raise NotInstalled(f"{words[0]} can not be run ({error.strerror}): see that it is a program.") from error
    print(done.stdout, flush=True)
    if done.returncode:
        last = (done.stdout.strip().splitlines() or ["nothing"])[-1][:SAID]
        raise BadScan(
            "brain_extraction",
            f"{words[0]} ended with code {done.returncode} and said at last: {last.rstrip('.')}; the log has the rest",
        )


def read(program: str, files: dict[str, Path], image: ants.ANTsImage) -> np.ndarray:
    """The mask that the program wrote or, if it wrote none, what is not 0 in its image of the brain alone; filled."""
    path = next((files[name] for name in ("mask", "output") if files[name].is_file()), None)
    if path is None:
        raise BadScan("brain_extraction", f"{program} ended well, but wrote no file where it was told to")
    try:
        written = load(path)
        array = voxels(path, written)
    except BadScan as fault:
        raise BadScan("brain_extraction", f"what {program} wrote can not be read: {fault}") from fault
    found = volumes.from_nifti(nibabel.Nifti1Image(array, written.affine))
    alike = (
        np.allclose(getattr(found, name), getattr(image, name), atol=0.01)
        for name in ("spacing", "origin", "direction")
    )
    if found.shape != image.shape or not all(alike):
        raise BadScan(
            "brain_extraction",
            f"what {program} wrote has {found.shape} voxels on another grid than the scan of {image.shape}; "
            "let it write on the grid of its input",
        )
    array = found.numpy()
    if not np.isfinite(array).all():
        raise BadScan("brain_extraction", f"what {program} wrote holds NaN or infinite voxels")
    return volumes.largest_filled(array > 0.5 if path == files["mask"] else array != 0)
