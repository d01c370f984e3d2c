"""Images to a model, moved at random: a memory map moved by the batch, against NIfTI files, caches and PNG folders."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import torch
from monai.data import CacheDataset, DataLoader, Dataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandAffined, RandFlipd
from PIL import Image
from scipy.ndimage import gaussian_filter
from side_by_side import Row, alternate, main
from torchvision import transforms
from torchvision.datasets import ImageFolder

from brainuad.augmentation import RandomAffine
from brainuad.gpus import automatic_device
from brainuad.sample_set import Images, SampleSet, SampleWriter

IMAGES, SIDE, BATCH, ROUNDS = 512, 128, 32, 5
ROTATION, TRANSLATION, SCALING = 10.0, 0.1, 0.1
DEVICE = automatic_device("auto")  # where a training moves images, ours and the peers': ours before they are augmented
WORKERS = tuple(sorted({0, 2, os.cpu_count()}))  # processes of the peers' loaders
PASSES = 6  # of ours in a round: a single one ends in the time that caches and threads take to warm up after the peers


def write(folder: Path, count: int, side: int) -> None:
    """The same images as a sample set, as NIfTI slices and as PNG files."""
    random = np.random.default_rng(0)
    writer = SampleWriter(folder / "samples", count, (side, side))
    (folder / "nifti").mkdir()
    (folder / "png/all").mkdir(parents=True)
    for number in range(count):
        image = gaussian_filter(random.random((side, side)), 3)
        image = ((image - image.min()) / np.ptp(image)).astype(np.float32)
        mask = np.ones((side, side), bool)
        writer.add(image, mask, ~mask, {"scan": str(number), "subject": str(number), "split": "train"})
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), folder / f"nifti/{number}.nii.gz")
        Image.fromarray((image * 255).astype(np.uint8)).save(folder / f"png/all/{number}.png")
    writer.close()


def memory_map(folder: Path, batch_size: int) -> Callable[[], int]:
    """Ours, as training reads them, several times."""
    images, augment = Images([SampleSet(folder / "samples")], "train"), RandomAffine(ROTATION, TRANSLATION, SCALING)

    def once() -> int:
        generator, order = torch.Generator().manual_seed(0), np.random.default_rng(0).permutation(len(images))
        batches = (torch.from_numpy(batch).to(DEVICE) for batch in images.batches(batch_size, order))
        return sum(len(augment(batch, generator)) for batch in batches)

    return lambda: sum(once() for _ in range(PASSES))


def dictionaries(folder: Path, kind: type, side: int, loader: dict) -> Callable[[], int]:
    """MONAI's dictionary transforms over NIfTI slices, bilinear by default; it draws a scale for each axis."""
    load = [LoadImaged("image"), EnsureChannelFirstd("image", channel_dim="no_channel")]
    move = RandAffined(
        "image",
        prob=1.0,
        rotate_range=np.deg2rad(ROTATION),
        translate_range=(TRANSLATION * side,) * 2,
        scale_range=(SCALING,) * 2,
        padding_mode="zeros",
    )
    files = [{"image": str(path)} for path in sorted((folder / "nifti").iterdir())]
    options = {"progress": False} if kind is CacheDataset else {}
    dataset = kind(files, Compose([*load, move, RandFlipd("image", prob=0.5, spatial_axis=0)]), **options)
    batches = DataLoader(dataset, shuffle=True, **loader)
    return lambda: sum(len(batch["image"].to(DEVICE)) for batch in batches)


def pictures(folder: Path, loader: dict) -> Callable[[], int]:
    """torchvision's transforms over a folder of PNG files."""
    ranges = {"translate": (TRANSLATION, TRANSLATION), "scale": (1 - SCALING, 1 + SCALING)}
    move = transforms.RandomAffine(ROTATION, **ranges, interpolation=transforms.InterpolationMode.BILINEAR)
    steps = [transforms.Grayscale(), move, transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    dataset = ImageFolder(folder / "png", transforms.Compose(steps))
    batches = torch.utils.data.DataLoader(dataset, shuffle=True, **loader)
    return lambda: sum(len(images.to(DEVICE)) for images, _ in batches)


def measure(
    count: int = IMAGES,
    side: int = SIDE,
    batch: int = BATCH,
    rounds: int = ROUNDS,
    workers: tuple[int, ...] = WORKERS,
) -> Iterator[Row]:
    """Images per second of all of them, in turns; of the peers the best of no, two and as many workers as cores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, count, side)
        peers = {
            "MONAI `Dataset` of NIfTI slices": (40, lambda loader: dictionaries(folder, Dataset, side, loader)),
            "MONAI `CacheDataset`": (30, lambda loader: dictionaries(folder, CacheDataset, side, loader)),
            "PNG folder, torchvision": (4, lambda loader: pictures(folder, loader)),
        }
        loaders = [{"batch_size": batch, "num_workers": n, "persistent_workers": n > 0} for n in workers]
        works = [make(loader) for _, make in peers.values() for loader in loaders]
        own, *theirs = alternate(memory_map(folder, batch), *works, rounds=rounds)
        own = [seconds / PASSES for seconds in own]
        for number, (against, (wanted, _)) in enumerate(peers.items()):
            tried = theirs[len(workers) * number : len(workers) * (number + 1)]
            best = min(tried, key=np.median)
            ratios = [peer / ours for peer, ours in zip(best, own, strict=True)]
            rates = f"{count / np.median(own):,.0f} against {count / np.median(best):,.0f} images a second"
            note = f"{rates}; {PASSES} passes of ours a round; its {workers[tried.index(best)]} workers are its best"
            note += "; MONAI draws a scale for each axis" * ("MONAI" in against)
            goal = f"Feeding {side} × {side}, batches of {batch}, moved and flipped"
            yield Row(goal, against, wanted, float(np.median(ratios)), min(ratios), max(ratios), note=note)


if __name__ == "__main__":
    main(measure)
