"""The numbers of all models → the comparison: all of them, in one wide table, and as a table of each protocol."""

import json
from pathlib import Path

import pandas as pd

from brainuad.catalogue import CATALOGUE, PROTOCOLS, column
from brainuad.results import HEADLINE, read_results
from brainuad.tables import make_table, numbers
from brainuad.typeset import as_html, as_latex, as_markdown

__all__ = ["comparison", "wide_table"]


def comparison(
    metrics: list[Path],
    replicates: list[Path],
    costs: list[Path],
    comparison: Path,
    long: Path,
    summary: Path,
    paper: list[Path],
    strict: list[Path],
    pages: list[Path],
    settings: dict,
) -> None:
    """Write the comparison of all models.

    Args:
        metrics: long-format tables, one a model, seed and dataset.
        replicates: the draws of each, in the same order.
        costs: JSON files ``…/{model}/{seed}/cost.json`` of the trainings.
        comparison: TSV to write, a row per model and seed, columns ``dataset/metric/region/pooling`` and ``cost/…``.
        long: TSV to write, all rows of ``metrics``.
        summary: TSV to write, the mean of each number over the seeds, see :attr:`brainuad.results.Results.summary`.
        paper: the table of protocol ``paper``, the paper's Table 2, to write as Markdown, LaTeX (for the package
            booktabs) and CSV (a row a cell, see :func:`brainuad.tables.numbers`).
        strict: the table of protocol ``strict``, alike.
        pages: both tables to write as HTML.
        settings: ``study`` (title), ``simulated``, ``datasets`` and ``models`` (names in order, of
            models to ``label`` and ``floor``) and ``floor``, the model that others are held against (None: the
            strongest floor of each column).

    Raises:
        ValueError: a table holds a model or dataset that the settings do not name.
    """
    results = read_results(metrics, replicates)
    refuse_unknown(results.rows, settings)
    for path in (comparison, long, summary, *paper, *strict, *pages):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    results.rows.to_csv(long, sep="\t", index=False)
    results.summary.reset_index().to_csv(summary, sep="\t", index=False)
    wide_table(results.rows, costs, settings).to_csv(comparison, sep="\t", index=False)
    for protocol, (markdown, latex, csv), html in zip(PROTOCOLS, (paper, strict), pages, strict=True):
        table = make_table(results, protocol, settings)
        numbers(table).to_csv(csv, index=False)
        Path(latex).write_text(as_latex(table), encoding="utf-8")
        Path(html).write_text(as_html(table), encoding="utf-8")
        Path(markdown).write_text(as_markdown(table), encoding="utf-8")
        print(as_markdown(table))


def refuse_unknown(rows: pd.DataFrame, settings: dict) -> None:
    """Stop at results that would be left out of the table without a word."""
    for name in ("model", "dataset"):
        unknown = sorted(set(rows[name]) - set(settings[f"{name}s"]))
        if unknown:
            raise ValueError(f"The metrics hold {name} {unknown[0]!r}, which is not configured: delete its results.")


def wide_table(rows: pd.DataFrame, costs: list[Path], settings: dict) -> pd.DataFrame:
    """One row per model and seed: model, seed, floor, values, prevalences, costs."""
    rows = rows[rows["map"].isin(HEADLINE)]
    known = rows[(rows["metric"] == "average_precision") & (rows["pooling"] == "pixels")].assign(metric="prevalence")
    rows = pd.concat([rows, known.assign(value=known["prevalence"])])
    names = [column(*key) for key in zip(rows["metric"], rows["region"], rows["pooling"], strict=True)]
    rows = rows.assign(column=rows["dataset"] + "/" + pd.Series(names, index=rows.index))
    place = {metric: index for index, metric in enumerate((*CATALOGUE, "prevalence"))}
    datasets = {dataset: index for index, dataset in enumerate(settings["datasets"])}
    order = rows.drop_duplicates("column").sort_values(
        ["dataset", "metric", "pooling", "region"],
        key=lambda keys: keys.map({"dataset": datasets, "metric": place}.get(keys.name, {"frame": 0, "brain": 1})),
        kind="stable",
    )
    values = rows.pivot(index=["model", "seed"], columns="column", values="value")[list(order["column"])]
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
