"""What the paper's study takes of processors, GPUs and disks: ``python benchmarks/study_cost.py``.

Jobs are counted by ``snakemake -n``. Work of models is counted in floating-point operations at the paper's settings, by
torch, and turned into hours of a V100 by shares of its peak that are assumed. Seconds of a processor are those of this
machine, measured here on simulated images and scaled to the study. Prints tables in Markdown.
"""

import contextlib
import datetime
import io
import os
import re
import resource
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import torch
import yaml
from planning import plan, write_study
from preprocessing import SITE, cohort
from side_by_side import ROOT, figure
from steps import operations

from brainuad import volumes
from brainuad.configuration import check
from brainuad.intake import intake
from brainuad.manifest import read_datasets
from brainuad.metrics import metrics
from brainuad.models import Detector, create
from brainuad.perceptual import PerceptualDistance
from brainuad.phantom import Site, simulate
from brainuad.quality import quality
from brainuad.quality_page import quality_page
from brainuad.sample_set import SampleWriter
from brainuad.samples import cut
from brainuad.scoring import components
from brainuad.synthetic import synthetic
from brainuad.thresholds import thresholds

SCANS, HCP = 2_113, 1_113  # of the four cohorts, and of the one that is learnt from
V100 = {"32 bit": (15.7e12, 0.4), "16 bit": (125e12, 0.3)}  # peak operations a second, and the share taken for reached
TRUNK = ROOT / "resources/lpips/alexnet_features.safetensors"
BATCH = 2
START = 2.0  # seconds of a processor taken for a job of which nothing was measured: its imports and little more
OPTIMIZER = 2  # values that Adam keeps of each weight, in a checkpoint
MAPS = 2.2e6  # bytes of the maps, pictures and page of a scan by one model, as counted in the demonstration
SCANS_PER_JOB = 16
COPIES = (50, 150)  # scans of which quality control is measured: of both as many are drawn
STAGES = {  # and the rules whose jobs they are
    "scans": ("preprocess",),
    "quality control": ("quality", "intake"),
    "samples": ("samples", "synthetic"),
    "training": ("train",),
    "scoring": ("score",),
    "metrics": ("metrics", "response"),
}
BYTES_OF_SCORE, BYTES_OF_SAMPLE = 4 * 4, 4 + 1 + 1  # a pixel: four arrays in 32 bit; an image and two masks


def spent() -> float:
    """Seconds of a processor that this process and those that it began, and that have ended, took so far."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def took(work: Callable[[], object]) -> float:
    """Seconds of a processor that a call takes; what it prints is dropped."""
    began = spent()
    with contextlib.redirect_stdout(io.StringIO()):
        work()
    return spent() - began


def backward(loss: torch.Tensor, **options) -> None:
    """Gradients, as Fabric gives them."""
    loss.backward(**options)


def training(entry: dict, entries: dict, size: tuple[int, ...]) -> float:
    """Operations of one training step, an image's part."""
    model, images = built(entry, entries, size).train(), torch.rand(BATCH, 1, *size)
    optimizers = model.optimizers(1e-4)
    return operations(lambda: model.step(images, optimizers, partial(backward))) / BATCH


def built(entry: dict, entries: dict, size: tuple[int, ...]) -> Detector:
    """A model of the configuration, untrained."""
    upstream = create(entries[entry["requires"]]["class"], size, {}) if entry["requires"] else None
    return create(entry["class"], size, entry["params"], upstream)


def scoring(model: Detector) -> tuple[float, float]:
    """Seconds of a processor and operations that scoring an image takes."""
    distance, images = PerceptualDistance(TRUNK, 2.0), torch.rand(BATCH, 1, *model.size)
    work = partial(components, model.eval(), distance, images)
    return operations(work) / BATCH, took(work) / BATCH


def scan(config: dict, copies: tuple[int, int] = COPIES) -> tuple[float, int, float, list[float]]:
    """Seconds of a processor for a scan of 1 mm and bytes that it leaves, seconds that cutting it takes, and those that
    quality control of so many takes.
    """
    samples = config["samples"]
    volumes.template(1.0)  # a job loads it once
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nibabel.save(simulate("cost", Site(**SITE), 0).t1w, folder / "0.nii.gz")
        seconds = took(lambda: cohort((folder, 0)))
        size = sum(path.stat().st_size for path in (folder / "out0").rglob("*") if path.is_file())
        cutting = took(lambda: list(cut(folder / "out0/sub-0", samples, samples["positions"])))
        quality_control(folder / "out0", 1, config)  # what the first picture of a process takes belongs to no number
        return seconds, size, cutting, [quality_control(folder / "out0", scans, config) for scans in copies]


def quality_control(done: Path, scans: int, config: dict) -> float:
    """Seconds of a processor that rules ``quality`` and ``intake`` take, once begun, for so many copies of a scan."""
    datasets = {"cost": config["datasets"]["hcp"] | {"manifest": None, "phantom": {"subjects": scans}}}
    names = read_datasets(datasets)["cost"][["scan", "subject"]]
    table = pd.read_csv(done.with_suffix(".tsv"), sep="\t", dtype=str, keep_default_na=False)
    table = table.loc[[0] * scans].reset_index(drop=True).assign(**names, voxels=names["scan"])
    settings = {**config["quality"], "simulated": True, "heights": config["samples"]["positions"]}
    with tempfile.TemporaryDirectory() as name:
        files = ("chunk.tsv", "cost.tsv", "montage.png", "page.html", "intake.tsv")
        chunk, out, montage, page, count = (Path(name) / file for file in files)
        table.to_csv(chunk, sep="\t", index=False)
        for label in table["scan"]:
            (chunk.parent / label).symlink_to(done / "sub-0")

        def work() -> None:
            judged = quality([chunk], out, montage, "cost", settings, {})
            quality_page(judged, page, montage, "cost", settings)
            intake([out], [], count, datasets, config["seed"])

        return took(work)


def write_scored(folder: Path, images: int, size: tuple[int, ...]) -> None:
    """Noise as test images with a square in each, scored at random, and as many healthy ones for validation."""
    random = np.random.default_rng(0)
    writer = SampleWriter(folder / "samples", 2 * images, size)
    brain, square = np.zeros(size, bool), np.zeros(size, bool)
    brain[8:-8, 8:-8] = square[40:60, 40:60] = True
    for number in range(2 * images):
        split = ("validation", "test")[number % 2]
        labels = {"scan": f"s{number}", "subject": str(number), "split": split, "position": 0.0}
        writer.add(random.random(size) * brain, brain, square & (split == "test"), labels)
    writer.close()
    (folder / "score").mkdir()
    (folder / "score/table.tsv").write_text((folder / "samples/table.tsv").read_text())
    for name in ("map", "reconstruction", "residual", "perceptual"):
        np.save(folder / f"score/{name}.npy", random.random((2 * images, 1, *size), np.float32))


def evaluation(images: int, size: tuple[int, ...], resamples: int, spacing: float) -> float:
    """Seconds of a processor that a job takes, once begun, that measures so many test images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scored(folder, images, size)
        sets, table = (folder / "score", folder / "samples"), folder / "thresholds.tsv"
        with contextlib.redirect_stdout(io.StringIO()):
            thresholds([sets[0]], [sets[1]], table)
        files = {name: folder / name for name in ("table", "subjects", "curves", "replicates.npz")}
        files["replicates"] = files.pop("replicates.npz")
        labels = {"dataset": "d", "model": "m", "seed": 1, "settings": {"resamples": resamples, "spacing": spacing}}
        return took(lambda: metrics(*sets, table, **files, **labels))


def anomalies(images: int, size: tuple[int, ...], settings: dict) -> float:
    """Seconds of a processor that putting an anomaly into an image takes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scored(folder, images, size)
        np.save(folder / "samples/lesion.npy", np.zeros((2 * images, 1, *size), bool))
        return took(lambda: synthetic(folder / "samples", folder / "out", settings)) / images


def planned(scans: int, maps: bool = False) -> dict[str, int]:
    """Jobs of each rule; with maps, those of the first seed of all models on HCP."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_study(folder, scans, SCANS_PER_JOB)
        file = folder / "config/config.yaml"
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        file.write_text(yaml.safe_dump({**config, "maps": {"datasets": ["hcp"] * maps}}, sort_keys=False))
        plan(folder)
        printed = (folder / "plan.txt").read_text(encoding="utf-8")
    return {rule: int(count) for rule, count in re.findall(r"^(\w+)\s+(\d+)$", printed, re.M)}


def hours(flop: float) -> dict[str, float]:
    """Hours of a V100 that so many operations take, by precision."""
    return {precision: flop / peak / share / 3600 for precision, (peak, share) in V100.items()}


def either(flop: float) -> str:
    """These hours in words."""
    return " or ".join(map(figure, hours(flop).values()))


def line(*cells: object) -> None:
    """Print one line of a table."""
    print(f"| {' | '.join(cell if isinstance(cell, str) else figure(cell) for cell in cells)} |", flush=True)


def models(config: dict, learnt: int, scored: int) -> dict[str, float]:
    """Print the table of the models; returns totals over the study, and how much more twice as many pixels take."""
    size, entries, seeds = tuple(config["samples"]["size"]), config["models"], len(config["training"]["seeds"])
    wide, totals, growth = (size[0], 2 * size[1]), dict.fromkeys(("training", "scoring", "seconds", "bytes"), 0.0), {}
    line("model", "epochs", "GFLOP an image and step", *(f"V100-hours in {name}" for name in V100), "parameters")
    line(*["---"] + ["---:"] * 5)
    for entry in entries.values():
        model = built(entry, entries, size)
        flop, seconds = scoring(model)
        totals["scoring"] += seeds * scored * flop
        totals["seconds"] += seeds * scored * seconds
        if not list(model.parameters()):
            continue  # a floor, which learns next to nothing
        step = training(entry, entries, size)
        growth[entry["label"]] = training(entry, entries, wide) / step
        work = step * learnt * entry["epochs"]
        totals["training"] += seeds * work
        totals["bytes"] += seeds * sum(value.nbytes for value in model.state_dict().values())
        count = sum(value.numel() for value in model.parameters() if value.requires_grad)
        line(entry["label"], entry["epochs"], step / 1e9, *hours(work).values(), count)
    return totals | {"least": min(growth.values()), "most": max(growth.values())}


def write_stages(config: dict, images: dict[str, int], totals: dict[str, float], jobs: dict[str, int]) -> None:
    """Measure what is left to measure, and print the table of the stages and that of how the study grows."""
    size, runs = tuple(config["samples"]["size"]), len(config["training"]["seeds"]) * len(config["models"])
    pixels = size[0] * size[1]
    count = {stage: sum(jobs.get(rule, 0) for rule in rules) for stage, rules in STAGES.items()}
    seconds, left, cutting, (less, more) = scan(config)
    putting = anomalies(50, size, config["datasets"]["hcp_synthetic"]["anomalies"])
    options = config["comparison"]["resamples"], config["samples"]["spacing"]
    few, many = (evaluation(number, size, *options) for number in (50, 200))
    wide = evaluation(200, (size[0], 2 * size[1]), *options)
    each = (many - few) / 150
    look = (more - less) / (COPIES[1] - COPIES[0])
    control = SCANS * look, jobs["quality"] * (less - COPIES[0] * look) + count["quality control"] * START
    samples = SCANS * cutting + images["made"] * putting, START * count["samples"]
    measured = runs * images["measured"] * each, count["metrics"] * (few - 50 * each + START)
    rest = jobs["total"] - sum(count.values())
    of_samples = BYTES_OF_SAMPLE * pixels * (SCANS + images["made"])
    of_scores = BYTES_OF_SCORE * pixels * runs * images["scored"]
    line("stage", "jobs", "CPU-hours", "V100-hours, 32 or 16 bit", "disk, GB")
    line("---", *["---:"] * 4)
    line("scans", count["scans"], SCANS * seconds / 3600, "", SCANS * left / 1e9)
    line("quality control", count["quality control"], sum(control) / 3600, "", "")
    line("samples", count["samples"], sum(samples) / 3600, "", of_samples / 1e9)
    line("training", count["training"], "", either(totals["training"]), totals["bytes"] / 1e9)
    line("... checkpoints, if all train at once", "", "", "", (1 + OPTIMIZER) * totals["bytes"] / 1e9)
    line("scoring", count["scoring"], totals["seconds"] / 3600, either(totals["scoring"]), of_scores / 1e9)
    line("metrics", count["metrics"], sum(measured) / 3600, "", "")
    line("all other jobs", rest, rest * START / 3600, "", "")
    print(f"\nCPU seconds: a scan {figure(seconds)}, cutting it {figure(cutting)}, an anomaly {figure(putting)};")
    print(f"quality control of {COPIES[0]} scans {figure(less)}, of {COPIES[1]} {figure(more)};")
    print(f"metrics of 50 images {figure(few)}, of 200 {figure(many)}, of 200 with twice the pixels {figure(wide)}.\n")
    stages = ("jobs", "scans", "quality control", "samples", "training", "scoring", "metrics")
    line("what doubles", *stages, "disk of samples and scores")
    line("---", *["---:"] * 8)
    ratios = [figure((2 * one + other) / (one + other)) for one, other in (control, samples, measured)]
    doubled = planned(2 * SCANS)["total"] / jobs["total"]
    line("scans", doubled, "2", ratios[0], ratios[1], "2", "2", ratios[2], "2")
    line("slices a scan", "1", "1", "about 1", f"1 to {ratios[1]}", "2", "2", ratios[2], "2")
    wider = f"{figure(totals['least'])} to {figure(totals['most'])}"
    line("pixels", "1", "1", "1", "about 1", wider, wider, wide / many, "2")


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    config = check(yaml.safe_load((ROOT / "config/config.yaml").read_text()), ROOT / "config/schema/config.schema.yaml")
    split, suite = (config["datasets"][name] for name in ("hcp", "hcp_suite"))
    learnt, tested = (round(HCP * split["split"][part]) for part in ("train", "test"))
    grid, kinds = suite["anomalies"]["grid"], len(suite["anomalies"]["kinds"])
    made = tested + kinds * len(grid["size"]) * len(grid["intensity"]) * grid["samples"]
    images = {"made": made, "measured": SCANS - HCP + tested + made, "scored": SCANS - learnt + made}
    print(f"{learnt:,} images to learn from, {images['scored']:,} to score, {images['measured']:,} to measure.\n")
    totals = models(config, learnt, images["scored"])
    jobs, mapped = planned(SCANS), planned(SCANS, maps=True)
    print(f"\nJobs by rule: {jobs}\n")
    write_stages(config, images, totals, jobs)
    disk = figure(MAPS * HCP * len(config["models"]) / 1e9)
    print(f"\nMaps of HCP as images, by the first seed: {mapped['total'] - jobs['total']} more jobs, up to {disk} GB.")
    print(f"{datetime.date.today()}, load of the machine: {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
