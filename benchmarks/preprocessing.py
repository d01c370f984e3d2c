"""Preprocessing of a skull-stripped scan of 1 mm: N4 and affine registration, against the defaults of antspyx.

All scans are simulated, so that their tissues and their bias are known. Times are those of a processor with one ITK
thread; the two of a pair run one after the other, and pairs side by side on the machine's cores.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
from side_by_side import ROOT, Row, figure, main

sys.path.insert(0, str(ROOT / "scripts"))
os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

PAIRS = 4  # two for each of two cores
SITE = {"spacing": (1.0, 1.0, 1.0), "bias": 0.15, "noise": 0.02}
PEER = "antspyx: N4 and affine registration, defaults, with the brain's mask"
SETTINGS = {
    "resolution": 1.0,
    "brain_extraction": {"method": "template", "command": None},
    "registration": {"transform": "affine", "spacing": 3.0},
    "bias_correction": {"spacing": 8.0, "iterations": [30, 30, 30], "tolerance": 1e-4},
    "normalization": {"low": 1.0, "high": 99.0},
    "seed": 7,
}


def pair(number: int) -> dict[str, dict[str, float]]:
    """One simulated brain by both: CPU seconds, Dice of the tissues, what is left of the bias."""
    from brainuad import volumes
    from brainuad.phantom import Site, simulate

    brain = simulate(f"benchmark{number}", Site(**SITE), seed=0)
    image = volumes.from_nifti(brain.t1w)
    template = volumes.template(1.0)
    works = {"theirs": antspyx, "ours": ours}
    return {name: assess(work, brain, image, template) for name, work in works.items()}


def assess(work, brain, image, template) -> dict[str, float]:
    """What one way of preprocessing gives."""
    from brainuad import volumes

    began = time.process_time()
    corrected, transform, _ = work(image, template)
    seconds = time.process_time() - began
    atlas = tissues_of_template()
    scores = []
    for tissue, target in zip(brain.tissues[1:], atlas, strict=True):
        probability = volumes.from_nifti(type(brain.t1w)(tissue, brain.t1w.affine))
        warped = volumes.warp(probability, transform, template.brain).numpy() > 0.5
        scores.append(2 * np.sum(warped & target) / (warped.sum() + target.sum()))
    inside = volumes.from_nifti(type(brain.t1w)(brain.brain.astype(np.uint8), brain.t1w.affine)).numpy() > 0
    clean = volumes.from_nifti(type(brain.t1w)(brain.clean.astype(np.float32), brain.t1w.affine)).numpy()
    # Voxels of noise have no bias to speak of: those of white and grey matter do.
    bright = inside & (clean > 0.5 * np.median(clean[inside]))
    left = np.log(np.maximum(corrected.numpy()[bright], 1e-3) / clean[bright])
    return {"seconds": seconds, "grey": scores[0], "white": scores[1], "bias": residual(left)}


def residual(values: np.ndarray) -> float:
    """Spread of a log ratio without what noise adds to its tails: half of the central 68 %."""
    low, high = np.percentile(values, [16, 84])
    return float(high - low) / 2


def tissues_of_template() -> list[np.ndarray]:
    """Grey and white matter of the template at 1 mm, as truth to overlap with."""
    from nilearn.datasets import load_mni152_gm_mask, load_mni152_wm_mask

    return [load(resolution=1).get_fdata() > 0 for load in (load_mni152_gm_mask, load_mni152_wm_mask)]


def ours(image, template):
    """The steps of a scan in ``brainuad.preprocessing``."""
    from brainuad import volumes

    mask = volumes.brain_mask(image, template, skull_stripped=True)
    corrected = volumes.correct_bias(image, mask, **SETTINGS["bias_correction"])
    transform = volumes.register(corrected, mask, template, **SETTINGS["registration"], seed=SETTINGS["seed"])
    brain = volumes.warp(mask, transform, template.brain, "nearestNeighbor")
    warped = volumes.warp(corrected, transform, template.brain)
    return corrected, transform, volumes.normalize(warped.numpy(), brain.numpy() > 0)


def antspyx(image, template):
    """The same by the library's defaults."""
    import ants

    mask = image.new_image_like((image.numpy() > 0).astype(np.float32))
    corrected = ants.n4_bias_field_correction(image, mask=mask)
    with tempfile.TemporaryDirectory() as folder:
        made = ants.registration(template.brain, corrected, type_of_transform="Affine", outprefix=f"{folder}/")
        return corrected, ants.read_transform(made["fwdtransforms"][0]), made["warpedmovout"]


def cohort(arguments: tuple[Path, int]) -> float:
    """Preprocess a simulated scan from its file to its files; returns the seconds that it took."""
    from brainuad.preprocessing import preprocess

    folder, number = arguments
    names = {"scan": f"sub-{number}", "subject": str(number), "session": "", "lesion": "", "skull_stripped": None}
    scans = [{**names, "t1w": str(folder / f"{number}.nii.gz")}]
    began = time.monotonic()
    preprocess(scans, folder / f"out{number}", folder / f"out{number}.tsv", SETTINGS)
    return time.monotonic() - began


def scaling(scans: int = 2, rounds: int = 5) -> Iterator[Row]:
    """How much a second worker brings, how much it brings to a loop that shares nothing, and how alike runs are."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, seconds, limits, written = Path(name), {1: [], 2: []}, {1: [], 2: []}, []
        save_scans(folder, scans)
        pools = {n: stack.enter_context(ProcessPoolExecutor(n, get_context("spawn"))) for n in seconds}
        for workers, pool in pools.items():
            list(pool.map(warm, range(workers)))
        for _ in range(rounds):
            for workers, pool in pools.items():
                seconds[workers].append(timed(pool, cohort, [(folder, number) for number in range(scans)]))
                limits[workers].append(timed(pool, loop, [0, 0]))
                written.append([path.read_bytes() for path in sorted(folder.glob("out*/sub-*/t1w.nii.gz"))])
                for path in folder.glob("out*/sub-*/*"):
                    path.unlink()
    gains, most = ([alone / both for alone, both in zip(*kind.values(), strict=True)] for kind in (seconds, limits))
    alone, both = (figure(median(values)) for values in seconds.values())
    note = f"{scans} scans, {alone} s alone, {both} s by two"
    note += f"; arithmetic that shares nothing gains {figure(median(most))} × on this machine"
    yield Row("A cohort by two workers", "by one", 1.9, median(gains), min(gains), max(gains), note=note)
    equal = sum(len(set(runs)) == 1 for runs in zip(*written, strict=True))
    yield Row(f"Scans equal in every bit, done {len(written)} times", "", scans, equal, unit=f"of {scans}")


def save_scans(folder: Path, scans: int) -> None:
    """Simulate so many scans, each into the file of its number."""
    import nibabel

    from brainuad.phantom import Site, simulate

    for number in range(scans):
        nibabel.save(simulate(str(number), Site(**SITE), 0).t1w, folder / f"{number}.nii.gz")


def timed(pool: ProcessPoolExecutor, work: Callable, arguments: list) -> float:
    """Seconds by the clock that the workers take for all of this."""
    began = time.monotonic()
    list(pool.map(work, arguments))
    return time.monotonic() - began


def loop(_: int) -> None:
    """Seconds of arithmetic on an array that fits into the cache: what two cores gain with nothing shared."""
    array = np.full(10_000, 0.5)
    for _ in range(15_000):
        np.exp(-array, out=array)


def warm(_: int) -> None:
    """Import what a scan needs and load the template, before the clock runs."""
    from brainuad import preprocessing, volumes  # noqa: F401

    volumes.template(1.0)
    time.sleep(1)  # so that every worker takes one


def measure() -> Iterator[Row]:
    """CPU seconds, accuracy, and how a cohort scales."""
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        results = list(pool.map(pair, range(PAIRS)))
    both = {name: {key: [r[name][key] for r in results] for key in results[0][name]} for name in ("ours", "theirs")}
    ratios = [t / o for t, o in zip(both["theirs"]["seconds"], both["ours"]["seconds"], strict=True)]
    seconds = {name: median(values["seconds"]) for name, values in both.items()}
    note = f"{figure(seconds['ours'])} against {figure(seconds['theirs'])} CPU seconds, {PAIRS} simulated brains"
    goal = "Preprocessing a skull-stripped scan of 1 mm"
    yield Row(goal, PEER, 15, median(ratios), min(ratios), max(ratios), note=note)
    for tissue in ("grey", "white"):
        gaps = [t - o for t, o in zip(both["theirs"][tissue], both["ours"][tissue], strict=True)]
        spread = {"low": min(gaps), "high": max(gaps), "unit": "Dice", "at_least": False}
        yield Row(f"... {tissue} matter: how much less it overlaps", PEER, 0.005, median(gaps), **spread)
    more = [o / t for t, o in zip(both["theirs"]["bias"], both["ours"]["bias"], strict=True)]
    yield Row("... bias that is left", PEER, 1.15, median(more), min(more), max(more), at_least=False)
    yield from scaling()


if __name__ == "__main__":
    main(measure)
