"""What the paper's study takes of processors, GPUs and disks: ``python benchmarks/study_cost.py``.

Jobs are counted by ``snakemake -n``. Work of training is counted in floating-point operations of one step of each model
at the paper's settings, by torch, and turned into hours of a V100 by shares of its peak that are assumed. Seconds of a
scan and of scoring are those of this machine, measured here on simulated images. Prints tables in Markdown.
"""

import os
import re
import tempfile
import time
from functools import partial
from pathlib import Path

import nibabel
import torch
import yaml
from planning import plan, write_study
from preprocessing import SITE, cohort
from side_by_side import ROOT, figure
from torch.utils.flop_counter import FlopCounterMode

from brainuad.models import create
from brainuad.perceptual import PerceptualDistance
from brainuad.phantom import Site, simulate
from brainuad.scoring import components

SCANS, TRAINED = 2_113, 946  # of the four cohorts; training images, validation left out
SCORED = 111 + 1_000 + 111 + 1_960  # test images: HCP, the other cohorts, the synthetic ones, the grid of anomalies
V100 = {"32 bit": (15.7e12, 0.4), "16 bit": (125e12, 0.3)}  # peak operations a second, and the share taken for reached
TRUNK = ROOT / "resources/lpips/alexnet_features.safetensors"
BATCH = 4


def backward(loss: torch.Tensor, **options) -> None:
    """Gradients, as Fabric gives them."""
    loss.backward(**options)


def operations(model: torch.nn.Module) -> float:
    """Floating-point operations of one training step, a single image's part."""
    images, optimizers = torch.rand(BATCH, 1, *model.size), model.train().optimizers(1e-4)
    with FlopCounterMode(display=False) as counter:
        model.step(images, optimizers, partial(backward))
    return counter.get_total_flops() / BATCH


def seconds_to_score(model: torch.nn.Module) -> float:
    """Seconds of a processor that an image takes."""
    distance, images = PerceptualDistance(TRUNK, 2.0), torch.rand(BATCH, 1, *model.size)
    components(model.eval(), distance, images)
    began = time.process_time()
    components(model, distance, images)
    return (time.process_time() - began) / BATCH


def scan() -> tuple[float, int]:
    """Seconds of a processor that preprocessing a scan of 1 mm takes, and the bytes that it leaves."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nibabel.save(simulate("cost", Site(**SITE), 0).t1w, folder / "0.nii.gz")
        began = time.process_time()
        cohort((folder, 0))
        seconds = time.process_time() - began
        return seconds, sum(path.stat().st_size for path in (folder / "out0").rglob("*") if path.is_file())


def planned(scans_per_job: int) -> dict[str, int]:
    """Jobs of each rule."""
    with tempfile.TemporaryDirectory() as folder:
        write_study(Path(folder), SCANS, scans_per_job)
        plan(Path(folder))
        printed = (Path(folder) / "plan.txt").read_text(encoding="utf-8")
    return {rule: int(count) for rule, count in re.findall(r"^(\w+)\s+(\d+)$", printed, re.M)}


def main() -> None:
    """Print the tables."""
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    size, entries, seeds = tuple(config["samples"]["size"]), config["models"], len(config["training"]["seeds"])
    print(
        "| model | epochs | GFLOP an image and step | V100-hours in 32 bit | in 16 bit | parameters | to score, CPU s |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    totals, scoring, weights = dict.fromkeys(V100, 0.0), 0.0, 0
    for entry in entries.values():
        if "epochs" not in entry:
            continue
        upstream = create(entries[entry["requires"]]["class"], size, {}) if entry.get("requires") else None
        model = create(entry["class"], size, entry.get("params") or {}, upstream)
        flop, each = operations(model), seconds_to_score(model)
        hours = {p: flop * TRAINED * entry["epochs"] / peak / share / 3600 for p, (peak, share) in V100.items()}
        totals = {precision: totals[precision] + seeds * value for precision, value in hours.items()}
        scoring += seeds * each * SCORED / 3600
        weights += seeds * sum(value.nbytes for value in model.state_dict().values())
        count = sum(value.numel() for value in model.parameters() if value.requires_grad)
        cells = [f"{entry['epochs']:,}", figure(flop / 1e9), *map(figure, hours.values()), f"{count:,}", figure(each)]
        print(f"| {entry['label']} | {' | '.join(cells)} |", flush=True)
    jobs = planned(config["preprocessing"]["scans_per_job"])
    seconds, size_of_scan = scan()
    pixels = size[0] * size[1]
    scores = 4 * 4 * pixels * SCORED * len(entries) * seeds  # four arrays of four bytes a pixel
    samples = 6 * pixels * (SCANS + SCORED)  # float32 and two masks
    print("\n| stage | jobs | CPU-hours | V100-hours, 32 or 16 bit | disk, GB |\n| --- | ---: | ---: | ---: | ---: |")
    work = jobs["preprocess"] + jobs["quality"], jobs["samples"] + jobs["synthetic"]
    print(f"| scans | {work[0]} | {figure(SCANS * seconds / 3600)} | | {figure(SCANS * size_of_scan / 1e9)} |")
    print(f"| samples | {work[1]} | | | {figure(samples / 1e9)} |")
    both = " or ".join(figure(value) for value in totals.values())
    print(f"| training, {seeds} seeds | {jobs['train']} | | {both} | {figure(weights / 1e9)} |")
    print(f"| scoring | {jobs['score']} | {figure(scoring)} | | {figure(scores / 1e9)} |")
    rest = sum(jobs.values()) - sum(work) - jobs["train"] - jobs["score"] - jobs["total"]
    print(f"| evaluation and report | {rest} | | | |")
    print(f"\nSeconds of a scan: {figure(seconds)} of a processor. Load of the machine: {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
