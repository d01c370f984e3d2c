"""What a paper printed, cell by cell beside ours."""

from html import escape
from pathlib import Path

import pandas as pd

from brainuad.catalogue import CATALOGUE, PROTOCOLS
from brainuad.results import read_results

__all__ = ["COLUMNS", "paper_difference"]

COLUMNS = ("model", "dataset", "metric", "published", "ours", "low", "high", "difference", "note")
PUBLISHED_COLUMNS = ("model", "dataset", "metric", "value", "note")


def paper_difference(
    metrics: list[Path], replicates: list[Path], published: Path, table: Path, page: Path, settings: dict
) -> None:
    """Write each published cell beside ours, by protocol ``paper``.

    Args:
        metrics: long-format tables, one a model, seed and dataset.
        replicates: their draws, in the same order.
        published: TSV with columns ``PUBLISHED_COLUMNS``; ``note`` says what differs in the protocol and may be empty.
        table: TSV to write, columns ``COLUMNS``; ours is the mean over the seeds.
        page: HTML to write.
        settings: ``study``, ``simulated``, ``models`` (name to ``label``).

    Raises:
        ValueError: the published table lacks a column or names what the study does not have.
    """
    printed = pd.read_csv(published, sep="\t", dtype={name: str for name in PUBLISHED_COLUMNS if name != "value"})
    missing = [name for name in PUBLISHED_COLUMNS if name not in printed]
    if missing:
        raise ValueError(f"{published} lacks the column {missing[0]!r}: it has {', '.join(printed.columns)}.")
    numbers = {number[0]: number for group in PROTOCOLS["paper"].values() for number in group}
    summary, rows = read_results(metrics, replicates).summary, []
    for cell in printed.fillna({"note": ""}).itertuples():
        if cell.metric not in numbers or cell.model not in settings["models"]:
            known = [*numbers, *settings["models"]]
            raise ValueError(f"{published} names {cell.model!r}, {cell.metric!r}: known are {', '.join(known)}.")
        key = (cell.model, cell.dataset, *numbers[cell.metric])
        ours = summary.loc[key] if key in summary.index else pd.Series({"value": None, "low": None, "high": None})
        row = {"model": cell.model, "dataset": cell.dataset, "metric": cell.metric, "published": cell.value}
        row |= {"ours": ours["value"], "low": ours["low"], "high": ours["high"], "note": cell.note}
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
        model=[settings["models"][name]["label"] or name for name in frame["model"]],
        metric=[CATALOGUE[name].title for name in frame["metric"]],
    )
    warning = "<p><b>Our scans are simulated: no difference says anything about the paper.</b></p>"
    body = shown.to_html(index=False, float_format="{:.3f}".format, na_rep="-", border=0)
    title = f"{escape(settings['study'])}: published and ours"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Published and ours</title></head>\n'
        f"<body><h1>{title}</h1>{warning * settings['simulated']}\n{body}</body></html>\n"
    )
