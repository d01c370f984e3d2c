"""The numbers of all models → the comparison: everything in one wide table, and the paper's Table 2."""

import json
from pathlib import Path

import pandas as pd

from brainuad.metrics import CATALOGUE
from brainuad.table2 import HEADLINE, as_html, as_latex, as_markdown, numbers, table2

__all__ = ["comparison", "wide_table"]


def comparison(
    metrics: list[Path],
    costs: list[Path],
    comparison: Path,
    markdown: Path,
    latex: Path,
    csv: Path,
    html: Path,
    settings: dict,
) -> str:
    """Write the comparison of all models.

    Args:
        metrics: long-format tables, one a model, seed and dataset.
        costs: JSON files ``…/{model}/{seed}/cost.json`` of the trainings.
        comparison: TSV to write, a row per model and seed, columns ``dataset/metric/region`` and ``cost/…``.
        markdown: Table 2 to write.
        latex: Table 2 to write, for the package booktabs.
        csv: Table 2 to write, numbers only.
        html: Table 2 to write, for the report.
        settings: ``study`` (title), ``simulated``, ``datasets`` (names in order), ``models`` (name to
            ``label`` and ``floor``, in order) and ``region`` of Table 2 (``frame`` or ``brain``).

    Returns:
        The Markdown, which is printed too.

    Raises:
        ValueError: a table holds a model or dataset that the settings do not name.
    """
    rows = pd.concat([pd.read_csv(path, sep="\t", dtype={"model": str, "dataset": str}) for path in metrics])
    refuse_unknown(rows, settings)
    for path in (comparison, markdown, latex, csv, html):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    wide_table(rows, costs, settings).to_csv(comparison, sep="\t", index=False)
    table = table2(rows, settings)
    numbers(table).to_csv(csv, index=False)
    Path(latex).write_text(as_latex(table), encoding="utf-8")
    Path(html).write_text(as_html(table), encoding="utf-8")
    Path(markdown).write_text(as_markdown(table), encoding="utf-8")
    print(as_markdown(table))
    return as_markdown(table)


def refuse_unknown(rows: pd.DataFrame, settings: dict) -> None:
    """Stop at results that would be left out of the table without a word."""
    for column in ("model", "dataset"):
        unknown = sorted(set(rows[column]) - set(settings[f"{column}s"]))
        if unknown:
            raise ValueError(f"The metrics hold {column} {unknown[0]!r}, which is not configured: delete its results.")


def wide_table(rows: pd.DataFrame, costs: list[Path], settings: dict) -> pd.DataFrame:
    """One row per model and seed: model, seed, floor, values, prevalences, costs."""
    rows = rows[rows["map"].isin(HEADLINE) | rows["map"].isna()]
    known = rows[rows["metric"] == "average_precision"].assign(metric="prevalence")
    rows = pd.concat([rows, known.assign(value=known["prevalence"])])
    rows = rows.assign(column=rows["dataset"] + "/" + rows["metric"] + "/" + rows["region"])
    order = [
        f"{dataset}/{metric}/{region}"
        for dataset in settings["datasets"]
        for metric in (*CATALOGUE, "prevalence")
        for region in ("frame", "brain")
    ]
    values = rows.pivot(index=["model", "seed"], columns="column", values="value")
    values = values[[column for column in order if column in values]]
    table = values.join(cost_table(costs), how="outer").reset_index()
    floors = [bool(settings["models"][model]["floor"]) for model in table["model"]]
    table.insert(2, "floor", floors)
    place = {model: index for index, model in enumerate(settings["models"])}
    return table.sort_values(
        ["model", "seed"],
        key=lambda keys: keys.map(place) if keys.name == "model" else keys,
        ignore_index=True,
    )


def cost_table(costs: list[Path]) -> pd.DataFrame:
    """The costs by model and seed, as they were recorded; both are the names of the file's folders."""
    rows = [
        {
            "model": path.parent.parent.name,
            "seed": int(path.parent.name),
            **prefixed(json.loads(path.read_text())),
        }
        for path in map(Path, costs)
    ]
    return pd.DataFrame(rows, columns=None if rows else ["model", "seed"]).set_index(["model", "seed"])


def prefixed(cost: dict) -> dict:
    """Entries of a cost record as columns of the wide table."""
    return {f"cost/{name}": value for name, value in cost.items()}
