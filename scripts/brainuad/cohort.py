"""The test images of a dataset with what one model made of them, and the numbers that are drawn from them.

Those of another split are a cohort, too: thresholds come from the validation images.

A number carries, beside its value, the values that the same draws of subjects give (``replicates``) and, where it is a
mean over subjects or images, each subject's own (``subjects``), by which models are compared in pairs.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from brainuad.lesions import label_lesions
from brainuad.sample_set import SampleSet, hold_lesion

__all__ = [
    "CONSTANT",
    "NOT_FINITE",
    "Cohort",
    "Number",
    "mean_number",
    "number_of",
    "open_scores",
    "unusable",
    "with_all",
]

CONSTANT = "the map is constant"
NOT_FINITE = "the map holds NaN or infinity: score the model again"


@dataclass
class Number:
    """One row of the long table.

    Attributes:
        metric, region, pooling, map: what it is, see ``catalogue``.
        value: NaN where it is undefined, for the ``reason`` given.
        n: how many of what is pooled count.
        prevalence: share of abnormal pixels in the region.
        deciding: subjects that decide it: those with a value, or with a lesion.
        replicates: its values over the draws, (resamples,).
        subjects: its values by subject, (subjects,), NaN where a subject has none.
    """

    metric: str
    region: str
    pooling: str
    map: str
    value: float
    n: int
    prevalence: float = np.nan
    reason: str = ""
    deciding: int = 0
    replicates: np.ndarray | None = field(default=None, repr=False)
    subjects: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Cohort:
    """The test images of a dataset and what one model made of them, read from disk one image at a time.

    Attributes:
        score: score folder.
        samples: the sample set that was scored.
        split: whose images are meant, in place of the test images.
    """

    score: Path
    samples: SampleSet
    split: str = "test"

    @cached_property
    def scored(self) -> pd.DataFrame:
        """The row in the sample set and the split of each image of the score folder."""
        return pd.read_csv(self.score / "table.tsv", sep="\t", usecols=["sample", "split"])

    @cached_property
    def places(self) -> np.ndarray:
        """Rows of the images in the score folder."""
        return np.flatnonzero(self.scored["split"] == self.split)

    @cached_property
    def rows(self) -> np.ndarray:
        """Rows of the images in the sample set."""
        return self.scored["sample"].to_numpy()[self.places]

    @cached_property
    def table(self) -> pd.DataFrame:
        """The sample set's table of the images."""
        return self.samples.table.iloc[self.rows].reset_index(drop=True)

    @cached_property
    def subjects(self) -> list[str]:
        """Names of the subjects, in the order in which they first come."""
        return list(dict.fromkeys(self.names))

    @cached_property
    def names(self) -> list[str]:
        """The subject of each image."""
        return [row.subject or row.scan for row in self.table.itertuples()]

    @cached_property
    def owner(self) -> np.ndarray:
        """Number of the subject of each image."""
        number = {name: index for index, name in enumerate(self.subjects)}
        return np.array([number[name] for name in self.names], dtype=int)

    @cached_property
    def lesioned(self) -> np.ndarray:
        """Whether each image holds a lesion, (images,)."""
        return np.array([lesion.any() for _, lesion in self.masks()], dtype=bool)

    @cached_property
    def diseased(self) -> np.ndarray:
        """Whether each image holds a lesion, or its scan is known to hold one that it may not show, (images,)."""
        return self.lesioned | hold_lesion(self.table)

    @property
    def unseen(self) -> np.ndarray:
        """Whether the scan of each image holds a lesion that none of its images shows, (images,)."""
        scan = self.table["scan"].to_numpy()
        return self.diseased & ~np.isin(scan, scan[self.lesioned])

    def healthy(self, reference: str | None = None) -> np.ndarray:
        """Whether each image is one of a healthy subject, (images,): of one without a lesion in any scan.

        With a reference those of another group in any session are not healthy, nor those of no group.
        """
        ill = self.diseased if reference is None else self.diseased | self.table["group"].ne(reference).to_numpy()
        return ~np.isin(self.owner, self.owner[ill])

    def array(self, name: str) -> np.ndarray:
        """One array of the score folder, see :func:`open_scores`."""
        return open_scores(self.score / f"{name}.npy")

    def images(self, name: str) -> Iterator[np.ndarray]:
        """That array of each image, (*size)."""
        array = self.array(name)
        return (np.asarray(array[place, 0]) for place in self.places)

    def masks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Brain and lesion of each image, (*size)."""
        return ((self.samples.brain[row, 0], self.samples.lesion[row, 0]) for row in self.rows)

    def pixels(self, region: str, name: str = "map") -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Subject, scores and numbered lesions of the pixels of a region, for each image."""
        for subject, scores, (brain, lesion) in zip(self.owner, self.images(name), self.masks(), strict=True):
            inside = brain if region == "brain" else np.ones_like(brain)
            yield subject, scores[inside], label_lesions(lesion & inside)[inside]

    def by_subject(self, region: str, name: str = "map") -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Scores and truth of the pixels of each subject's images together."""
        array = self.array(name)
        for subject in range(len(self.subjects)):
            scores, truth = [], []
            for index in np.flatnonzero(self.owner == subject):
                row, place = self.rows[index], self.places[index]
                brain = self.samples.brain[row, 0]
                inside = brain if region == "brain" else np.ones_like(brain)
                scores.append(array[place, 0][inside])
                truth.append(self.samples.lesion[row, 0][inside])
            yield np.concatenate(scores), np.concatenate(truth)


def open_scores(path: Path) -> np.ndarray:
    """An array of a score folder, memory-mapped.

    Raises:
        ValueError: it is not of single precision. Half of it makes equal what is not, and the numbers change.
    """
    array = np.load(path, mmap_mode="r")
    if array.dtype != np.float32:
        raise ValueError(f"{path} holds {array.dtype}, not float32: score the model again.")
    return array


def unusable(images: Iterable[np.ndarray]) -> str:
    """Why maps say nothing, being NaN or infinite somewhere or the same everywhere; empty if they say something.

    Of maps without a pixel there is nothing to say.
    """
    bounds = np.array([(image.min(), image.max()) for image in images if image.size])  # NaN where an image holds any
    if not np.isfinite(bounds).all():
        return NOT_FINITE
    return CONSTANT if bounds.size and bounds.min() == bounds.max() else ""


def mean_number(
    values: np.ndarray, owner: np.ndarray, weights: np.ndarray, reason: str = "undefined in every image", **keys
) -> Number:
    """The mean over what is defined of values (n,), one an image or subject, with the draws of their subjects."""
    subjects = weights.shape[1]
    known = ~np.isnan(values)
    total = np.bincount(owner[known], weights=values[known], minlength=subjects)
    count = np.bincount(owner[known], minlength=subjects)
    with np.errstate(invalid="ignore", divide="ignore"):
        replicates, each = (weights @ total) / (weights @ count), total / count
    return Number(
        value=values[known].mean() if known.any() else np.nan,
        n=int(known.sum()),
        reason="" if known.any() else reason,
        deciding=int((count > 0).sum()),
        replicates=replicates,
        subjects=each,
        **keys,
    )


def with_all(weights: np.ndarray) -> np.ndarray:
    """The draws after a first row in which every subject comes once: the value itself."""
    return np.vstack([np.ones(weights.shape[1]), weights])


def number_of(values: np.ndarray, reason: str = "undefined", **keys) -> Number:
    """A number whose value comes first among those of its draws, (1 + resamples,).

    The reason is kept where that value is undefined.
    """
    reason = reason if np.isnan(values[0]) else ""
    return Number(value=float(values[0]), reason=reason, replicates=values[1:], **{"n": 0, **keys})
