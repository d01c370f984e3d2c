"""The numbers of all models, seeds and datasets, with their draws: means over seeds, differences, intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from brainuad.catalogue import CATALOGUE
from brainuad.resampling import interval, no_interval

__all__ = ["HEADLINE", "KEY", "Results", "read_results", "verdict"]

KEY = ("dataset", "metric", "region", "pooling")
HEADLINE = ("map", "reconstruction", "")  # the maps whose numbers are shown


@dataclass(frozen=True)
class Results:
    """Long-format rows and, for each, its values over the draws of subjects.

    Attributes:
        rows: as written by :func:`brainuad.metrics.metrics`, numbered from 0.
        replicates: (rows, resamples).
    """

    rows: pd.DataFrame
    replicates: np.ndarray

    @cached_property
    def places(self) -> dict[tuple, list[int]]:
        """Rows of all seeds by (model, dataset, metric, region, pooling)."""
        shown = self.rows[self.rows["map"].isin(HEADLINE)]
        return {key: list(part.index) for key, part in shown.groupby(["model", *KEY], sort=False)}

    @cached_property
    def anomalous(self) -> set[str]:
        """Names of the datasets in whose images there is something to find."""
        return set(self.rows.loc[self.rows["metric"] == "average_precision", "dataset"])

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Mean over the seeds, indexed by (model, dataset, metric, region, pooling).

        Columns: ``value``; ``sd`` over the seeds (NaN for one); ``seeds``; ``low`` and ``high``, the interval of the
        mean over the draws of subjects; ``n``; ``subjects``; ``prevalence``; ``reason``.
        """
        records = {}
        for key, places in self.places.items():
            part = self.rows.loc[places]
            value = part["value"].mean(skipna=False)
            drawn, subjects = self.replicates[places].mean(axis=0), part["subjects"].min()
            evidence = drawn, subjects, part["n"].max() if CATALOGUE[key[2]].share else 0
            low, high = interval(value, *evidence)
            reasons = [reason for reason in part["reason"][part["value"].isna()] if reason]
            records[key] = {
                "value": value,
                "sd": part["value"].std(),
                "seeds": len(places),
                "low": low,
                "high": high,
                "n": part["n"].max(),
                "subjects": subjects,
                "prevalence": part["prevalence"].mean(),
                "reason": next(iter(reasons), "") if np.isnan(value) else no_interval(*evidence),
            }
        index = pd.MultiIndex.from_tuples(list(records), names=["model", *KEY])
        return pd.DataFrame(list(records.values()), index=index)

    def difference(self, model: str, other: str, key: Sequence[str]) -> tuple[float, float, float]:
        """Mean over the seeds of one model less that of another, and its interval over the same draws of subjects."""
        first, second = (self.places.get((name, *key), []) for name in (model, other))
        if not (first and second):
            return np.nan, np.nan, np.nan
        if key[3] == "subjects" and self.rows.loc[[*first, *second], "n"].nunique() > 1:
            return np.nan, np.nan, np.nan  # of other subjects
        one, two = (self.rows.loc[places, "value"].mean(skipna=False) for places in (first, second))
        drawn = self.replicates[first].mean(axis=0) - self.replicates[second].mean(axis=0)
        return float(one - two), *interval(one - two, drawn, self.rows.loc[[*first, *second], "subjects"].min())

    def strongest(self, models: Sequence[str], key: Sequence[str]) -> str | None:
        """The model with the best value of a number; None where none has one."""
        known = {
            model: self.summary.loc[(model, *key), "value"] for model in models if (model, *key) in self.summary.index
        }
        known = {model: value for model, value in known.items() if not np.isnan(value)}
        best = max if CATALOGUE[key[1]].direction == "higher is better" else min
        return best(known, key=known.get) if known else None


def read_results(tables: Sequence[Path], replicates: Sequence[Path]) -> Results:
    """Read the tables of all jobs and, in the same order, their draws."""
    text = {"model": str, "dataset": str, "map": str, "reason": str, "region": str, "pooling": str}
    frames = [pd.read_csv(path, sep="\t", dtype=text) for path in tables]
    rows = pd.concat(frames, ignore_index=True).fillna({"map": "", "reason": ""})
    arrays = []
    for path in replicates:
        with np.load(path) as stored:
            arrays.append(stored["replicates"])
    return Results(rows, np.concatenate(arrays).astype(np.float64))


def verdict(low: float, high: float, higher_is_better: bool = True) -> str:
    """What the interval of a difference says: ``above``, ``below`` or ``not told apart``; empty without an interval."""
    if np.isnan(low) or np.isnan(high):
        return ""
    sign = 1 if higher_is_better else -1
    if min(sign * low, sign * high) > 0:
        return "above"
    return "below" if max(sign * low, sign * high) < 0 else "not told apart"
