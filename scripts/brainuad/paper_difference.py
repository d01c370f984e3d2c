"""What a paper printed, cell by cell beside ours."""

from html import escape
from pathlib import Path

import pandas as pd

from brainuad.catalogue import CATALOGUE
from brainuad.published import printed_numbers, read_published
from brainuad.results import read_results
from brainuad.typeset import STYLE

__all__ = ["COLUMNS", "paper_difference"]

COLUMNS = ("model", "dataset", "metric", "published", "ours", "low", "high", "difference", "note", "reason")


def paper_difference(
    metrics: list[Path], replicates: list[Path], published: Path, table: Path, page: Path, settings: dict
) -> None:
    """Write each published cell beside ours, by protocol ``paper``.

    Args:
        metrics: long-format tables, one a model, seed and dataset.
        replicates: their draws, in the same order.
        published: TSV with columns ``model``, ``dataset``, ``metric``, ``value``, ``note``; the last
            says what differs in the protocol and may be empty.
        table: TSV to write, columns ``COLUMNS``; ours is the mean over the seeds, and empty for a ``reason``.
        page: HTML to write.
        settings: ``study``, ``simulated``, ``models`` (name to ``label``). Cells of other models or datasets stand
            there with nothing beside them.

    Raises:
        ValueError: see :func:`read_published`.
    """
    numbers = {number[0]: number for number in printed_numbers()}
    summary, rows = read_results(metrics, replicates).summary, []
    for cell in read_published(published).itertuples():
        key = (cell.model, cell.dataset, *numbers[cell.metric])
        missing = {"value": None, "low": None, "high": None, "reason": "not in this study"}
        ours = summary.loc[key] if key in summary.index else pd.Series(missing)
        row = {"model": cell.model, "dataset": cell.dataset, "metric": cell.metric, "published": cell.value}
        row |= {"ours": ours["value"], "low": ours["low"], "high": ours["high"], "note": cell.note}
        row["reason"] = ours["reason"]
        rows.append(row)
    frame = pd.DataFrame(rows).astype({name: float for name in ("published", "ours", "low", "high")})
    frame["difference"] = frame["ours"] - frame["published"]
    frame = frame[list(COLUMNS)]
    Path(table).parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(table, sep="\t", index=False)
    Path(page).write_text(as_page(frame, settings), encoding="utf-8")
    print(frame.to_string(index=False))


def as_page(frame: pd.DataFrame, settings: dict) -> str:
    """The cells as a page that needs no other file."""
    shown = frame.assign(
        model=[settings["models"].get(name, {}).get("label") or name for name in frame["model"]],
        metric=[CATALOGUE[name].title for name in frame["metric"]],
    )
    warning = "<p><b>Our scans are simulated: no difference says anything about the paper.</b></p>"
    body = shown.to_html(index=False, float_format="{:.3f}".format, na_rep="-", border=0)
    title = f"{escape(settings['study'])}: published and ours"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Published and ours</title>'
        f"<style>{STYLE} td:nth-last-child(-n+2){{min-width:12em;text-align:left}}</style></head>\n"
        f"<body><h1>{title}</h1>{warning * settings['simulated']}\n{body}</body></html>\n"
    )
