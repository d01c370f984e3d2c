"""How fast a training is with images from the disk, against the same steps on a batch that is in memory already."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from feeding import IMAGES, SIDE, write
from side_by_side import Row, alternate, main

from brainuad.devices import accelerate
from brainuad.models import create
from brainuad.sample_set import Images, SampleSet
from brainuad.training import Run

BATCH, STEPS, ROUNDS = 8, 4, 5
SECTION = {"device": "auto", "precision": "auto", "augmentation": {}, "validate_every": 1, "checkpoint_every": 1}
SETTINGS = {"class": "swin_mae.SwinMAE", "lr": 1e-4, "epochs": 100, "training": SECTION}


def measure(
    count: int = IMAGES,
    side: int = SIDE,
    batch: int = BATCH,
    steps: int = STEPS,
    rounds: int = ROUNDS,
    params: dict | None = None,
) -> Iterator[Row]:
    """The rate with the data, in percent of the rate without; of the fastest model, which waits soonest."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), count, side)
        images = Images([SampleSet(Path(folder) / "samples")], "train")
        torch.manual_seed(0)
        model = create(SETTINGS["class"], images.size, params or {})
        run = Run(model, accelerate(SECTION), SETTINGS | {"batch_size": batch}, 0, images, images)
        run.detector.train()
        numbers = np.random.default_rng(0).permutation(count)
        kept = run.fabric.to_device(torch.from_numpy(images[numbers[:batch]])).contiguous(memory_format=run.layout)

        def from_disk() -> None:
            for step in range(steps):
                run.train_batch(0, step, numbers[batch * step : batch * (step + 1)])

        def from_memory() -> None:
            for _ in range(steps):
                with run.fabric.autocast():
                    run.detector.step(kept, run.optimizers, partial(run.backward, 1.0))

        disk, memory = alternate(from_disk, from_memory, rounds=rounds)
    shares = [100 * held / read for held, read in zip(memory, disk, strict=True)]
    rate = batch * steps / median(disk)
    goal = f"Training of a Swin MAE, {side} × {side}, batches of {batch}"
    note = f"{rate:.3g} images a second with the data"
    yield Row(goal, "a batch in memory", 95, median(shares), min(shares), max(shares), unit="% of the rate", note=note)


if __name__ == "__main__":
    main(measure)
