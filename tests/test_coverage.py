"""Whether 95 % intervals contain the truth in 95 of 100 cases; minutes of work, so run by ``make test-slow`` alone."""

import numpy as np
import pytest

from brainuad import lesions
from brainuad.cohort import with_all
from brainuad.counts import count
from brainuad.detection import areas, best_dice
from brainuad.resampling import draws, interval

RUNS, SUBJECTS, PIXELS, PREVALENCE = 500, 40, 400, 0.1
SIZE, THRESHOLD = 24, 1.65  # of images with lesions; a threshold that lets 5 % of healthy pixels pass

pytestmark = pytest.mark.slow


def subject(generator, pixels=PIXELS):
    """Two models' scores and the truth of one simulated subject: some are noisier, and in some the lesion is faint."""
    lesion = generator.random(pixels) < PREVALENCE * generator.uniform(0.5, 1.5)
    stands_out, level = generator.normal(1.2, 0.5), generator.normal(0, 0.3)
    scores = generator.normal(level, 1, pixels) + stands_out * lesion
    other = 0.7 * scores + generator.normal(0, 0.7, pixels) + generator.normal(0.2, 0.3) * lesion
    return scores.astype(np.float32), other.astype(np.float32), lesion.astype(int)


def of_pixels(cohort, weights):
    """Each number of all subjects, then of each draw; those of counts, and means over subjects."""
    everyone, found = with_all(weights), {}
    precision = []
    for model in (0, 1):
        counts = count(
            lambda model=model: ((index, parts[model], parts[2]) for index, parts in enumerate(cohort)),
            len(cohort),
            bins=512,
        )
        positives, negatives = everyone @ counts.positives, everyone @ counts.negatives
        ranked, average = areas(positives, negatives, counts.tied)
        precision.append(average)
        if model == 0:
            found |= {"auroc": ranked, "average_precision": average, "best_dice": best_dice(positives, negatives)}
    found["paired_difference"] = precision[0] - precision[1]
    passed = [(scores[lesion == 0] > THRESHOLD).mean() for scores, _, lesion in cohort]
    for name, values in (("mean", [scores.mean() for scores, *_ in cohort]), ("false_positive_rate", passed)):
        found[name] = everyone @ np.array(values, float) / len(cohort)
    return {name: (values, len(cohort), 0) for name, values in found.items()}


def image(generator, faint):
    """Scores and numbered lesions, one to three, of one simulated subject; ``faint`` ones are seldom found."""
    scores, lesion = generator.normal(generator.normal(0, 0.2), 1, (SIZE, SIZE)), np.zeros((SIZE, SIZE), int)
    stands_out = generator.normal(0.0 if faint else 1.4, 1.0)
    for number in range(1, generator.integers(1, 4) + 1):
        place = slice(7 * number - 5, 7 * number - 1)
        lesion[place, place] = number
    return (scores + stands_out * (lesion > 0)).astype(np.float32), lesion


def of_lesions(cohort, weights):
    """FROC, the share of lesions found at one false alarm an image, and that of images with a conspicuous mean."""

    def images():
        return ((index, *parts, np.ones((SIZE, SIZE), bool)) for index, parts in enumerate(cohort))

    known = lesions.count_lesions(images(), len(cohort), lesions.levels(images), 1.0)
    everyone = with_all(weights)
    totals = everyone @ known.found["all"], everyone @ known.lesions["all"]
    alarms = (everyone @ known.alarms) / (everyone @ known.images)[:, None]
    conspicuous = np.array([float(scores[lesion > 0].mean() > THRESHOLD) for scores, lesion in cohort])
    things = int(totals[1][0])
    return {
        "froc": (lesions.froc(*totals, alarms), len(cohort), things),
        "lesion_sensitivity": (lesions.sensitivity_at(*totals, alarms, 1.0), len(cohort), things),
        "detection": (everyone @ conspicuous / len(cohort), len(cohort), len(cohort)),
    }


KINDS = {
    "pixels": (subject, of_pixels, 20_000),
    "lesions": (lambda generator: image(generator, False), of_lesions, 5000),
    "faint lesions": (lambda generator: image(generator, True), of_lesions, 5000),
}


def hit(kind, subjects):
    """By number, the share of the simulated cohorts whose interval contains the truth, that of a large population."""
    one, of, population = KINDS[kind]
    generator = np.random.default_rng(1)
    everyone = [one(generator) for _ in range(population)]
    truth = {name: values[0] for name, (values, *_) in of(everyone, np.ones((1, population))).items()}
    covered = {name: [] for name in truth}
    for run in range(RUNS):
        generator = np.random.default_rng(1000 + run)
        cohort = [one(generator) for _ in range(subjects)]
        for name, (values, *rest) in of(cohort, draws(f"run {run}", subjects, 1000)).items():
            low, high = interval(values[0], values[1:], *rest)
            covered[name].append(low <= truth[name] <= high)
    return truth, {name: float(np.mean(inside)) for name, inside in covered.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_contain_the_truth(kind, record_property):
    truth, shares = hit(kind, SUBJECTS)
    print(f"\n{kind}: share of {RUNS} intervals of {SUBJECTS} subjects that contain the truth")
    for name, share in shares.items():
        print(f"    {name}, in truth {truth[name]:.3f}: {share:.3f}")
        record_property(name, share)
    assert all(0.92 <= share <= 0.98 for share in shares.values()), shares
