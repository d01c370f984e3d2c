"""Draws of subjects: AUROC and average precision of each, from counts, against sorting the pixels of each draw anew."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from side_by_side import Row, alternate, figure, main
from sklearn.metrics import average_precision_score, roc_auc_score

from brainuad import detection
from brainuad.counts import count, pooled
from brainuad.resampling import draws

SUBJECTS, PIXELS, RESAMPLES = 100, 98_304, 1000
SORTED = 5  # draws that the peer is timed on: a thousand would take two hours
PEER = "pixels of the drawn subjects joined, scikit-learn"


def cohort() -> tuple[np.ndarray, np.ndarray]:
    """Scores (subjects, pixels) whose lesions stand out more in some subjects than in others, and truth."""
    random = np.random.default_rng(0)
    truth = random.random((SUBJECTS, PIXELS), np.float32) < 0.034
    scores = random.standard_exponential((SUBJECTS, PIXELS), np.float32)
    scores *= np.where(truth, random.uniform(1, 5, (SUBJECTS, 1)).astype(np.float32), 1)
    scores[(random.random(scores.shape, np.float32) < 0.62) & ~truth] = 0
    return scores, truth


def from_counts(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Both numbers of each draw, (resamples, 2), the counting included."""
    images = partial(zip, range(SUBJECTS), scores, truth.astype(np.int32))
    counts = count(images, SUBJECTS)
    parts = [
        np.stack(detection.areas(positives, negatives, counts.tied), axis=-1)
        for positives, negatives, _, _ in pooled(counts, weights)
    ]
    return np.concatenate(parts)


def sorted_anew(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The same by the peer."""
    results = []
    for row in weights:
        chosen = np.repeat(np.arange(SUBJECTS), row)
        drawn = truth[chosen].ravel(), scores[chosen].ravel()
        results.append((roc_auc_score(*drawn), average_precision_score(*drawn)))
    return np.array(results)


def measure() -> Iterator[Row]:
    """The ratio for a thousand draws, and the greatest error of the draws that both computed."""
    scores, truth = cohort()
    weights, results = draws("benchmark", SUBJECTS, RESAMPLES), {}
    seconds = [[], []]
    for number in range(SORTED):  # a draw of the peer for all of ours, in turns
        one = weights[number : number + 1]
        theirs, ours = alternate(
            lambda one=one, n=number: results.update({n: sorted_anew(scores, truth, one)}),
            lambda: results.update(ours=from_counts(scores, truth, weights)),
            rounds=1,
            warm=0,
        )
        seconds[0] += theirs
        seconds[1] += ours
    ratios = [RESAMPLES * theirs / ours for theirs, ours in zip(*seconds, strict=True)]
    goal = f"{RESAMPLES:,} draws of {SUBJECTS} subjects with {PIXELS:,} pixels"
    note = (
        f"{figure(np.median(seconds[1]))} s; the peer timed on {SORTED} draws, {figure(np.median(seconds[0]))} s each"
    )
    both = np.concatenate([results[number] for number in range(SORTED)])
    error = float(np.abs(both - results["ours"][:SORTED]).max())
    for wanted, bound in ((5000, 1.1e-4), (500, 3e-5)):  # one measurement, held against both pairs of goals
        yield Row(goal, PEER, wanted, float(np.median(ratios)), min(ratios), max(ratios), note=note)
        yield Row("... greatest difference", PEER, bound, error, unit="", at_least=False)


if __name__ == "__main__":
    main(measure)
