"""Which models can be told apart: paired tests between all, and mean ranks, subject by subject.

Pooled pixels have no value for one subject, so tests and ranks are of the numbers of protocol ``strict`` that have.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import permutation_test, rankdata
from statsmodels.stats.multitest import multipletests

from brainuad.catalogue import CATALOGUE, PROTOCOLS, column
from brainuad.figures import save
from brainuad.resampling import draws, interval, no_interval
from brainuad.results import KEY

__all__ = ["PAIR_COLUMNS", "RANK_COLUMNS", "holm", "mean_ranks", "sign_flip", "significance"]

PAIR_COLUMNS = (*KEY, "model_a", "model_b", "difference", "low", "high", "p", "p_holm", "n", "reason")
TESTED = {
    kind: [key for key in numbers if CATALOGUE[key[0]].merit and key[2] in ("images", "subjects")]
    for kind, numbers in PROTOCOLS["strict"].items()
}
RANK_COLUMNS = (*KEY, "model", "rank", "low", "high", "n", "reason")


def significance(
    metrics: Sequence[Path], subjects: Sequence[Path], pairs: Path, ranks: Path, figure: Path, settings: dict
) -> None:
    """Write the tests and the ranks.

    Args:
        metrics: long-format tables, one a model, seed and dataset.
        subjects: their tables of subjects, in the same order.
        pairs: TSV to write, columns ``PAIR_COLUMNS``: the mean over subjects and seeds of model a less that of b, also
            of images (a subject of many sessions counts once, as in the test), its interval, the p-value of a paired
            permutation test and the same after Holm's correction for all pairs of models of that number; ``reason``
            says why an interval is empty.
        ranks: TSV to write, columns ``RANK_COLUMNS``: mean rank over the subjects, 1 the best, and its
            interval, or the ``reason`` why there is none.
        figure: PNG of the ranks to write.
        settings: ``models`` (name to ``label`` and ``floor``, in order), ``resamples`` and ``simulated``.
    """
    pair_rows, rank_rows = [], []
    for key, values in subject_values(metrics, subjects, list(settings["models"])).items():
        pair_rows += compared(key, values, settings["resamples"])
        rank_rows += ranked(key, values, settings["resamples"])
    for path, rows, columns in ((pairs, pair_rows, PAIR_COLUMNS), (ranks, rank_rows, RANK_COLUMNS)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows, columns=list(columns)).to_csv(path, sep="\t", index=False)
    rank_figure(pd.DataFrame(rank_rows, columns=list(RANK_COLUMNS)), Path(figure), settings)
    print(f"{len(pair_rows)} paired tests, {sum(row['p_holm'] < 0.05 for row in pair_rows)} below 0.05 after Holm")


def subject_values(
    metrics: Sequence[Path], subjects: Sequence[Path], models: Sequence[str]
) -> dict[tuple[str, ...], pd.DataFrame]:
    """By number, a table of subjects × models: each subject's value, its mean over the seeds.

    A model of which a seed has no value is left out: what is left of it is not its mean.
    """
    tables: dict[str, dict[str, list[pd.DataFrame]]] = {}
    anomalous = set()
    for table, path in zip(metrics, subjects, strict=True):
        rows = pd.read_csv(table, sep="\t", usecols=["dataset", "model", "metric"], dtype=str)
        dataset, model = rows.loc[0, ["dataset", "model"]]
        anomalous |= {dataset} if rows["metric"].eq("average_precision").any() else set()
        own = pd.read_csv(path, sep="\t", dtype={"subject": str}).set_index("subject")
        tables.setdefault(dataset, {}).setdefault(model, []).append(own)
    found = {}
    for dataset, of_models in tables.items():
        for number in TESTED["anomalous" if dataset in anomalous else "healthy"]:
            means = {}
            for name in (name for name in models if name in of_models):
                values = [own.get(column(*number), pd.Series(np.nan, own.index)) for own in of_models[name]]
                if all(value.notna().any() for value in values):
                    means[name] = pd.concat(values, axis=1).mean(axis=1, skipna=False)
                else:
                    print(f"{name} is left out of {dataset}/{column(*number)}: a seed of it has no value.")
            if means:
                found[dataset, *number] = pd.DataFrame(means)
    return found


def compared(key: tuple[str, ...], values: pd.DataFrame, resamples: int) -> list[dict]:
    """The paired tests of one number between all models, over the subjects of whom both have a value."""
    rows, weights = [], draws(key[0], len(values), resamples)
    for first, second in combinations(values.columns, 2):
        each = (values[first] - values[second]).to_numpy()
        known = ~np.isnan(each)
        differences, drawn = each[known], weights[:, known]
        with np.errstate(invalid="ignore"):
            means = drawn @ differences / drawn.sum(axis=1)
        value = differences.mean() if known.any() else np.nan
        low, high = interval(value, means, len(differences))
        named = dict(zip(KEY, key, strict=True)) | {"model_a": first, "model_b": second, "n": len(differences)}
        reason = no_interval(means, len(differences)) if known.any() else "no subject has a value of both"
        bounds = {"difference": value, "low": low, "high": high, "reason": reason}
        rows.append({**named, **bounds, "p": sign_flip(differences)})
    for row, adjusted in zip(rows, holm(np.array([row["p"] for row in rows])), strict=True):
        row["p_holm"] = adjusted
    return rows


def ranked(key: tuple[str, ...], values: pd.DataFrame, resamples: int) -> list[dict]:
    """The mean rank of each model over the subjects of whom all models have a value."""
    known = values.dropna()
    if known.empty or known.shape[1] < 2:
        return []
    up = CATALOGUE[key[1]].direction == "higher is better"
    means, drawn = mean_ranks(known.to_numpy(), draws(key[0], len(known), resamples), up)
    named = dict(zip(KEY, key, strict=True)) | {"n": len(known)}
    rows = []
    for model, mean, each in zip(known.columns, means, drawn.T, strict=True):
        low, high = interval(mean, each, len(known))
        reason = no_interval(each, len(known))
        rows.append({**named, "model": model, "rank": mean, "low": low, "high": high, "reason": reason})
    return rows


def sign_flip(differences: np.ndarray, flips: int = 9999) -> float:
    """Paired permutation test: between two like models each subject's difference could be turned about.

    Args:
        differences: (subjects,).
        flips: how many of the possible exchanges to draw; all of them are made where there are no more.

    Returns:
        Two-sided p-value of the mean difference, never 0; NaN without subjects.
    """
    if len(differences) < 2:
        return 1.0 if len(differences) else np.nan  # turned about, one subject differs by as much
    tested = permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=flips, axis=0, rng=0)
    return float(tested.pvalue)


def holm(p: np.ndarray) -> np.ndarray:
    """P-values after Holm's correction (1979) for as many tests as there are; NaN stays and is not counted."""
    adjusted, known = np.full(len(p), np.nan), ~np.isnan(p)
    if known.any():
        adjusted[known] = multipletests(p[known], method="holm")[1]
    return adjusted


def mean_ranks(values: np.ndarray, weights: np.ndarray, higher_is_better: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean rank of each model over the subjects, 1 for the best; equal values share a rank.

    Args:
        values: (subjects, models).
        weights: draws of the subjects, (resamples, subjects).
        higher_is_better: the direction of the values.

    Returns:
        Mean ranks (models,) and those of each resample (resamples, models).
    """
    ranks = rankdata(-values if higher_is_better else values, axis=1)
    return ranks.mean(axis=0), weights @ ranks / weights.sum(axis=1, keepdims=True)


def rank_figure(ranks: pd.DataFrame, path: Path, settings: dict) -> None:
    """Draw the mean ranks with their intervals, a panel for each number, the best model on top of each.

    Args:
        ranks: columns ``RANK_COLUMNS``.
        path: PNG to write.
        settings: see :func:`significance`.
    """
    panels = list(ranks.groupby(list(KEY), sort=False))
    columns = max(min(len(panels), 3), 1)
    lines = -(-len(panels) // columns) if panels else 1
    height = 0.9 + 0.24 * len(settings["models"])
    figure = Figure(figsize=(4.2 * columns, height * lines + 0.4), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, (key, part) in zip(axes, panels, strict=False):
        part = part.sort_values("rank", ascending=False, ignore_index=True)
        for place, row in part.iterrows():
            colour = "0.6" if settings["models"][row["model"]]["floor"] else "C0"
            axis.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
            axis.plot(row["rank"], place, "o", color=colour, markersize=5)
        labels = [settings["models"][name]["label"] or name for name in part["model"]]
        axis.set_yticks(range(len(part)), labels, fontsize=8, parse_math=False)  # a label may hold a dollar
        axis.set_xlim(0.5, len(settings["models"]) + 0.5)
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(left=False, labelsize=8)
        dataset, metric, region, _ = key
        named = f"{CATALOGUE[metric].title}, {region}, {part['n'].max()} subjects"
        axis.set_title(f"{dataset}\n{named}", fontsize=9, loc="left")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    title = "Mean rank over subjects, 1 the best, with its 95 % interval; floors in grey"
    simulated = " (simulated scans)" if settings["simulated"] else ""
    figure.suptitle(f"{title}{simulated}" if panels else "No number that a subject has", fontsize=10, x=0.01, ha="left")
    save(figure, path)
