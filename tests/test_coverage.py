"""Whether 95 % intervals contain the truth in 95 of 100 cases; minutes of work, so run by ``make test-slow`` alone."""

import numpy as np
import pytest

from brainuad.counts import count
from brainuad.detection import areas, best_dice
from brainuad.resampling import draws, interval

RUNS, SUBJECTS, PIXELS, PREVALENCE = 500, 40, 400, 0.1

pytestmark = pytest.mark.slow


def subject(generator, pixels=PIXELS):
    """Scores and truth of one simulated subject: some are noisier, and in some the lesion stands out less."""
    lesion = generator.random(pixels) < PREVALENCE * generator.uniform(0.5, 1.5)
    stands_out, level = generator.normal(1.2, 0.5), generator.normal(0, 0.3)
    return (generator.normal(level, 1, pixels) + stands_out * lesion).astype(np.float32), lesion.astype(int)


def numbers(cohort, weights):
    """AUROC, average precision and best Dice of all pixels, and the mean score of subjects: of all, then by draw."""
    counts = count(lambda: ((index, *pixels) for index, pixels in enumerate(cohort)), len(cohort), bins=1024)
    weights = np.vstack([np.ones(len(cohort)), weights])
    positives, negatives = weights @ counts.positives, weights @ counts.negatives
    means = np.array([scores.mean() for scores, _ in cohort])
    return [
        *areas(positives, negatives, counts.tied),
        best_dice(positives, negatives),
        weights @ means / weights.sum(axis=1),
    ]


@pytest.fixture(scope="module")
def truth():
    """The numbers of a population of 20,000 subjects."""
    generator = np.random.default_rng(1)
    population = [subject(generator) for _ in range(20_000)]
    return [float(value[0]) for value in numbers(population, np.ones((1, len(population))))]


def test_intervals_contain_the_truth(truth, record_property):
    covered = np.zeros((RUNS, len(truth)), bool)
    for run in range(RUNS):
        generator = np.random.default_rng(1000 + run)
        cohort = [subject(generator) for _ in range(SUBJECTS)]
        for place, (value, *drawn) in enumerate(numbers(cohort, draws(f"run {run}", SUBJECTS, 1000))):
            low, high = interval(value, np.array(drawn), SUBJECTS)
            covered[run, place] = low <= truth[place] <= high
    names = "auroc", "average_precision", "best_dice", "mean"
    shares = dict(zip(names, covered.mean(axis=0).tolist(), strict=True))
    print(f"\nshare of {RUNS} intervals of {SUBJECTS} subjects that contain the truth: {shares}")
    for name, share in shares.items():
        record_property(name, share)
        assert 0.92 <= share <= 0.98, (name, share)
