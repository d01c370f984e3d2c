"""From raw scans to template space: checks each scan, runs the four steps of `volumes`, writes what came out.

A bad scan is set aside with the reason and never stops the others, be it one that crashes the compiled code beneath. A
scan that is finished, with the same settings and the same source files, is not done again.
"""

import hashlib
import json
import os
import time
import traceback
from functools import lru_cache
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

from brainuad import quality, volumes
from brainuad.extraction import brain_mask, contradiction
from brainuad.faults import FAULTS, BadScan, NotInstalled
from brainuad.isolation import Crash, isolated
from brainuad.reading import digest, doubts, read_lesion, read_scan

__all__ = ["preprocess"]

VERSION = 6  # raise it when the same scan and settings give other results: finished scans are then done again
ALIGNMENT = 4.0  # mm: voxels of the correlation with the template, whose average brain has no finer folds
IMAGES = ("t1w.nii.gz", "mask.nii.gz")
LESION = "lesion.nii.gz"
TRANSFORMS = ("to_template.mat", "from_template.mat")
RECORD = "quality.json"
TABLE = (
    *("scan", "subject", "session", "status", "code", "reason", "overruled"),
    *("correlation", "overlap", "brain_volume_ml", "bias_range", "lesion_volume_ml", "lesion_volume_template_ml"),
    *("spacing", "shape", "orientation", "skull_stripped", "seconds", "voxels"),
)


def preprocess(scans: list[dict], folder: Path, table: Path, settings: dict) -> None:
    """Preprocess scans one after the other into `folder`/<scan>/ and list them in `table`, which is written last.

    A scan's folder receives t1w.nii.gz (float32, [0, 1], 0 outside the brain), mask.nii.gz and, if there is one,
    lesion.nii.gz (uint8), all on the template's grid; to_template.mat and from_template.mat (affine files of ITK: the
    first takes images there, the second back); quality.json, written last. An excluded scan has quality.json alone.

    Args:
        scans: dicts of scan, subject, session, t1w, lesion (path, or empty), skull_stripped (None recognises it),
            include (whether a person decided to take it in spite of doubts) and exclude (or not even to read it).
        folder: where the scans' folders go.
        table: TSV with one row a scan, in the order given.
        settings: the ``preprocessing`` section.
    """
    rows = []
    for number, scan in enumerate(scans, start=1):
        target = Path(folder) / scan["scan"]
        row = finished(target, fingerprint(scan, settings), scan.get("include", False))
        note = " (finished before)" if row else ""
        row = row or (set_aside(scan) if scan.get("exclude") else attempt(scan, target, settings))
        print(f"[{number}/{len(scans)}] {scan['scan']} {summary(row)}{note}", flush=True)
        rows.append({**row, **{key: "x".join(map(str, row[key])) for key in ("spacing", "shape") if key in row}})
    text = pd.DataFrame(rows).reindex(columns=list(TABLE)).to_csv(sep="\t", index=False)
    write(Path(table), text)


def set_aside(scan: dict) -> dict:
    """The row of a scan that a person left out before it was read."""
    known = {key: scan.get(key) or "" for key in ("scan", "subject", "session")}
    return known | {"status": "excluded", "code": "excluded", "reason": "By config/exclusions.tsv."}


def attempt(scan: dict, folder: Path, settings: dict) -> dict:
    """Run one scan and write its quality.json, whose content is returned; a bad scan does not raise."""
    record = {key: scan.get(key) or "" for key in ("scan", "subject", "session")}
    identity = fingerprint(scan, settings)
    clear(folder, RECORD, *IMAGES, LESION, *TRANSFORMS)
    coarse_template(settings["resolution"])  # made once: the process of each scan begins as a copy of this one
    began = time.monotonic()  # so that the seconds of the first scan are its own, too
    try:
        record |= {"status": "included", "code": "", "reason": "", **isolated(run, scan, folder, settings)}
    except BadScan as fault:
        record |= {"status": "excluded", "code": fault.code, "reason": one_line(fault)}
    except (MemoryError, OSError, NotInstalled):
        raise  # the machine's fault, not the scan's: the job fails, and the next run does what is left
    except Crash as crash:
        reason = (
            f"{scan['t1w']}: {crash}; the log says where. Look at the scan and export it again, or leave it out; "
            "snakemake --forcerun preprocess tries it as it is."
        )
        record |= {"status": "excluded", "code": "crashed", "reason": one_line(reason)}
        identity = ""  # --forcerun preprocess tries it again, perhaps with other versions of the libraries
    except Exception as error:
        traceback.print_exc()
        reason = (
            f"{scan['t1w']} failed unexpectedly ({type(error).__name__}: {error}): see the log; "
            "snakemake --forcerun preprocess tries it again."
        )
        record |= {"status": "excluded", "code": "failed", "reason": one_line(reason)}
        identity = ""  # the fault may lie elsewhere (memory, disk), so that --forcerun preprocess tries it again
    if record["status"] == "excluded":
        clear(folder, *IMAGES, LESION, *TRANSFORMS)
    record |= {"seconds": round(time.monotonic() - began, 2), "fingerprint": identity}
    write(folder / RECORD, json.dumps(record, indent=2) + "\n")
    return record


def run(scan: dict, folder: Path, settings: dict) -> dict:
    """Check and preprocess one scan, write its images and transforms, and return its measures.

    Raises:
        BadScan: with one sentence on what is wrong with the scan.
    """
    path, include = scan["t1w"], scan.get("include", False)
    source = read_scan(path, include)
    lesion = volumes.from_nifti(read_lesion(scan["lesion"], source)) if scan.get("lesion") else None
    template, image = volumes.template(settings["resolution"]), volumes.from_nifti(source)
    registration, seed = settings["registration"], settings["seed"]
    overruled = doubts(path)
    try:
        stripped = scan.get("skull_stripped")
        if stripped is None:
            stripped = volumes.is_skull_stripped(image)
        elif doubt := contradiction(image, stripped):
            if not include:
                raise doubt
            overruled.append(doubt)
        mask = brain_mask(image, template, stripped, settings["brain_extraction"], registration["spacing"], seed)
        corrected = volumes.correct_bias(image, mask, **settings["bias_correction"])
        transform = volumes.register(corrected, mask, template, **registration, seed=seed)
        brain = volumes.warp(mask, transform, template.brain, "nearestNeighbor")
        warped = volumes.warp(corrected, transform, template.brain)
        t1w = volumes.normalize(warped.numpy(), brain.numpy() > 0, **settings["normalization"])
    except BadScan as fault:
        raise BadScan(fault.code, f"{path}: {fault}.") from fault
    outputs = {"t1w.nii.gz": (volumes.like(t1w, brain), np.float32), "mask.nii.gz": (brain, np.uint8)}
    lesion_volumes = {}
    if lesion is not None:
        outputs[LESION] = (volumes.warp_lesions(lesion, transform, template.brain), np.uint8)
        for name, found in (("lesion_volume_ml", lesion), ("lesion_volume_template_ml", outputs[LESION][0])):
            lesion_volumes[name] = quality.volume(found.numpy() > 0, found.spacing)
    save(folder, outputs, (transform, transform.invert()))
    inside = template.mask.numpy() > 0
    small = volumes.coarse(outputs["t1w.nii.gz"][0], ALIGNMENT).numpy()
    small_template, small_mask = coarse_template(settings["resolution"])
    return {
        "correlation": quality.correlation(small, small_template, small_mask > 0.5),
        "overlap": quality.overlap(brain.numpy() > 0, inside),
        "brain_volume_ml": quality.volume(mask.numpy() > 0, mask.spacing),
        "bias_range": quality.bias_range(image.numpy(), corrected.numpy(), mask.numpy() > 0),
        **lesion_volumes,
        "spacing": [round(float(size), 3) for size in source.header.get_zooms()[:3]],
        "shape": list(source.shape),
        "orientation": "".join(nibabel.aff2axcodes(source.affine)),
        "skull_stripped": bool(stripped),
        "overruled": " ".join(fault.code for fault in overruled),
        "voxels": digest(source),
    }


@lru_cache(maxsize=2)
def coarse_template(resolution: float) -> list[np.ndarray]:
    """The template's brain and mask on the grid of which alignment is judged."""
    return [volumes.coarse(part, ALIGNMENT).numpy() for part in volumes.template(resolution)]


def save(folder: Path, images: dict, transforms: tuple) -> None:
    """Write a scan's images, given by file name with their types, and its two transforms."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (image, dtype) in images.items():
        nibabel.save(volumes.to_nifti(image, dtype), folder / name)
    for name, transform in zip(TRANSFORMS, transforms, strict=True):
        volumes.write_transform(transform, folder / name)


def fingerprint(scan: dict, settings: dict) -> str:
    """A hash of all that decides a scan's results: settings, source files (path, size, time, rights), `VERSION`."""
    parts = [VERSION, {key: value for key, value in settings.items() if key != "scans_per_job"}]
    parts.append({key: scan.get(key) or "" for key in ("scan", "subject", "session")})
    parts.append(scan.get("skull_stripped"))
    for path in (scan["t1w"], scan.get("lesion")):
        exists = bool(path) and os.path.isfile(path)  # which, unlike Path, is false where one may not look
        status = Path(path).stat() if exists else None
        parts.append([str(path or ""), status and status.st_size, status and status.st_mtime_ns])
        parts.append(exists and os.access(path, os.R_OK))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def finished(folder: Path, identity: str, include: bool) -> dict | None:
    """The record of a scan that was finished with this fingerprint, whose files are there and whose doubts stand.

    A scan that was set aside for a doubt is done after all once a person decides to include it, and one that was
    included in spite of a doubt is set aside once nobody does.
    """
    try:
        record = json.loads((folder / RECORD).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    files = [*IMAGES, *TRANSFORMS, *([LESION] if "lesion_volume_ml" in record else [])]
    excluded = record.get("status") == "excluded"
    whole = excluded or all((folder / name).is_file() for name in files)
    doubted = FAULTS[record["code"]].judged if excluded and record.get("code") in FAULTS else record.get("overruled")
    stands = not doubted or excluded != include
    return record if whole and stands and record.get("fingerprint") == identity else None


def summary(record: dict) -> str:
    """What the log says of a scan."""
    if record["status"] == "excluded":
        return f"excluded ({record['code']}): {record['reason']}"
    return "included {seconds:.1f} s correlation {correlation:.2f} overlap {overlap:.2f}".format(**record)


def write(path: Path, text: str) -> None:
    """Replace a file at once: it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    os.replace(temporary, path)


def clear(folder: Path, *names: str) -> None:
    """Delete a scan's files by name."""
    for name in names:
        (folder / name).unlink(missing_ok=True)


def one_line(message: object) -> str:
    """The message without line breaks or tabs, which a TSV could not hold."""
    return " ".join(str(message).split())
