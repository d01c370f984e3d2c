"""AUROC and average precision of all pixels of a dataset: exact and streaming, against those of two packages."""

import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import torch
from side_by_side import Row, alternate, main, ratio
from sklearn.metrics import average_precision_score, roc_auc_score
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from brainuad import detection
from brainuad.counts import Pixels, count_exactly, count_together

IMAGE = 128 * 128
PEER = "scikit-learn `roc_auc_score` + `average_precision_score`"
TENSORS = "torchmetrics `binary_auroc` + `binary_average_precision`, exact"


def pixels(images: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores as an anomaly map has them, six in ten exact zeros around the brain, and truth, 3.4 % abnormal."""
    random = np.random.default_rng(0)
    truth = random.random(images * IMAGE, np.float32) < 0.034
    scores = random.standard_exponential(images * IMAGE, np.float32)
    scores[truth] *= 3
    scores[(random.random(images * IMAGE, np.float32) < 0.62) & ~truth] = 0
    return scores / scores.max(), truth  # torchmetrics takes what lies beyond 1 for logits


def areas(read: Callable, scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Both from counts of so many images, as the study's metrics have them: all abnormal pixels of one are a lesion."""

    def images() -> Pixels:
        for start in range(0, len(scores), IMAGE):
            part = slice(start, start + IMAGE)
            yield 0, scores[part], truth[part].view(np.uint8)

    counts = read(images)
    return tuple(float(value[0]) for value in detection.areas(counts.positives, counts.negatives, counts.tied))


def exact(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Both without loss; the counts give Dice, the rate of false positives and AUPRO, too."""
    return areas(count_exactly, scores, truth)


def streamed(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Both from bins, an image at a time."""
    return areas(count_together, scores, truth)


def reference(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Both by the peer."""
    return roc_auc_score(truth, scores), average_precision_score(truth, scores)


def tensors(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Both by the other peer."""
    pair = torch.from_numpy(scores), torch.from_numpy(truth).long()
    return float(binary_auroc(*pair)), float(binary_average_precision(*pair))


def measure(few: int = 610, many: int = 6100) -> Iterator[Row]:
    """Ratios at so many images, 1e7 and 1e8 pixels, the errors and the memory of the streaming way."""
    for images in (few, many):
        scores, truth = pixels(images)
        size, results = f"{len(scores):.0e} pixels".replace("e+0", "e"), {}

        def work(function: Callable, results: dict = results, pair: tuple = (scores, truth)) -> Callable[[], None]:
            return lambda: results.update({function: function(*pair)})

        if images == few:
            theirs, own, counted = alternate(*map(work, (reference, exact, streamed)), warm=0)
            note = ""
        else:  # the peer takes a minute
            theirs = 5 * alternate(work(reference), rounds=1, warm=0)[0]
            own, counted = alternate(work(exact), work(streamed), rounds=5, warm=0)
            note = "scikit-learn once, before those of ours"
        yield ratio(f"AUROC and AP of {size}, exact", PEER, 15, theirs, own, note)
        yield ratio(f"AUROC and AP of {size}, streaming", PEER, 60, theirs, counted, note)
        if images == few:
            others = alternate(work(tensors), work(exact), warm=0)
            yield ratio(f"AUROC and AP of {size}, exact", TENSORS, None, *others)
        for name, function, bound in (("exact", exact, 1e-9), ("streaming", streamed, 1e-5)):
            error = float(np.abs(np.subtract(results[function], results[reference])).max())
            yield Row(f"... {name}: greatest difference", PEER, bound, error, unit="", at_least=False)
        tracemalloc.start()
        streamed(scores, truth)
        extra = tracemalloc.get_traced_memory()[1] / 2**30
        tracemalloc.stop()
        yield Row("... streaming: memory beside the pixels", "", 0.3, extra, unit="GiB", at_least=False)
        del scores, truth, work, results


if __name__ == "__main__":
    main(measure)
