"""Whether two groups differ in more than what they are named for: site, age and sex."""

import numpy as np
import pandas as pd
from scipy.stats import chi2_contingency, fisher_exact

from brainuad.effects import Moments, hedges, welch

__all__ = ["COLUMNS", "balance"]

COLUMNS = ("group", "variable", "known", "of", "in_group", "in_reference", "difference", "p", "warning")
LARGE = 0.5  # a standardised difference of ages from which it is said, whatever its p-value
LEVEL = 0.05
SKEWED = 0.3  # a total variation distance from which it is said: small cohorts have no small p-values


def balance(group: pd.DataFrame, reference: pd.DataFrame, name: str, reference_name: str) -> list[dict]:
    """A row for site, age and sex: what the groups have and, where they differ, a sentence that says so.

    Args:
        group: a row a subject, columns ``site``, ``age`` and ``sex`` (texts and numbers, empty or NaN where unknown).
        reference: the same of the group that it is held against.
        name: of the group.
        reference_name: of the other.

    Returns:
        Rows of ``COLUMNS``. ``difference`` is Hedges' g of ages, the largest difference between the shares of a sex,
        and the total variation distance between sites (1: no site in common); ``p`` of Welch's and Fisher's test or,
        of more than two values, of Pearson's chi-square.
    """
    names = f"{name} and {reference_name}"
    rows = [
        sites(text(group["site"]).str.casefold(), text(reference["site"]).str.casefold(), names),
        ages(numbers(group["age"]), numbers(reference["age"]), names),
        sexes(text(group["sex"]).str.upper(), text(reference["sex"]).str.upper(), names),
    ]
    return [{"group": name, "of": len(group) + len(reference), **row} for row in rows]


def text(column: pd.Series) -> pd.Series:
    """Texts without those that are unknown."""
    known = column.astype("string").str.strip().replace({"n/a": ""}).fillna("")
    return known[known != ""].astype(object)


def numbers(column: pd.Series) -> pd.Series:
    """Numbers without what is none."""
    return pd.to_numeric(column, errors="coerce").replace([np.inf, -np.inf], np.nan).dropna()


def sites(group: pd.Series, reference: pd.Series, names: str) -> dict:
    """Whether the groups were scanned at the same sites; "Clinic" and "clinic" are one."""
    row = shares("site", group, reference)
    if not len(group) or not len(reference):
        row["warning"] = f"Whether {names} were scanned at the same sites cannot be told: no sites are known."
    elif row["difference"] > 1 - 1e-9:
        row["warning"] = (
            f"{names} share no site: whatever sets them apart may be the scanner. Group and site are confounded, and "
            "nothing here can tell them apart."
        )
    elif differs(row):
        row["warning"] = (
            f"{names} were scanned at the sites in different proportions (p = {row['p']:.2g}): group and site are "
            "partly confounded."
        )
    return row


def differs(row: dict) -> bool:
    """Whether shares differ by more than chance makes likely, or by so much that it matters whatever made it."""
    return row["p"] < LEVEL or row["difference"] >= SKEWED - 1e-9


def sexes(group: pd.Series, reference: pd.Series, names: str) -> dict:
    """Whether as many of either sex are in both groups."""
    row = shares("sex", group, reference)
    if not len(group) or not len(reference):
        row["warning"] = f"Whether {names} differ in sex cannot be told: it is not known."
    elif differs(row):
        row["warning"] = f"{names} differ in sex ({row['in_group']}; {row['in_reference']}; p = {row['p']:.2g})."
    return row


def shares(variable: str, group: pd.Series, reference: pd.Series) -> dict:
    """What values both groups have; the test of the table of their counts."""
    table = pd.DataFrame({"group": group.value_counts(), "reference": reference.value_counts()}).fillna(0)
    table = table.sort_index().astype(int)
    row = {"variable": variable, "known": len(group) + len(reference), "warning": ""}
    for column in table:
        row[f"in_{column}"] = ", ".join(f"{value}: {count}" for value, count in table[column].items() if count)
    row |= {"difference": np.nan, "p": np.nan}
    if len(group) and len(reference):
        # Half the sum of the differences; of two values it is the difference between the shares of either.
        row["difference"] = float((table["group"] / len(group) - table["reference"] / len(reference)).abs().sum() / 2)
        test = fisher_exact if len(table) == 2 else chi2_contingency
        row["p"] = float(test(table.to_numpy()).pvalue) if len(table) > 1 else 1.0
    return row


def ages(group: pd.Series, reference: pd.Series, names: str) -> dict:
    """Whether one group is older."""
    row = {"variable": "age", "known": len(group) + len(reference), "warning": "", "difference": np.nan, "p": np.nan}
    for column, values in (("in_group", group), ("in_reference", reference)):
        spread = f" ± {values.std():.1f}" if len(values) > 1 else ""
        row[column] = f"{values.mean():.1f}{spread}" if len(values) else ""
    if len(group) < 2 or len(reference) < 2:
        return row | {"warning": f"Whether {names} differ in age cannot be told: too few ages are known."}
    moments = [Moments.of(values.to_numpy(float)[:, None]) for values in (group, reference)]
    row["difference"], row["p"] = float(hedges(*moments)[0]), float(welch(*moments).p[0])
    if row["p"] < LEVEL or abs(row["difference"]) >= LARGE:
        older = "older" if group.mean() > reference.mean() else "younger"
        row["warning"] = (
            f"{names} differ in age: the former is {older} ({row['in_group']} against {row['in_reference']} years, "
            f"p = {row['p']:.2g}), and age changes brains by itself."
        )
    return row
