"""What the jobs of each rule took: time, processor, memory.

Snakemake writes one record a job, which is of its last attempt; a training writes its own, ``cost.json``, over all its
starts, since the job that Snakemake sees may only have waited for it, and a score says there whether it had a GPU.
Snakemake's records are no declared files of the workflow: what an earlier configuration left is told apart by name.
"""

import glob
import json
import re
from html import escape
from pathlib import Path

import pandas as pd

from brainuad.typeset import STYLE

__all__ = ["COLUMNS", "costs"]

COLUMNS = {
    "rule": "Rule",
    "jobs": "Jobs",
    "median_seconds": "Median, s",
    "max_seconds": "Longest, s",
    "cpu_hours": "CPU-hours",
    "gpu_hours": "GPU-hours",
    "peak_memory_mb": "Peak memory, MB",
}
RECORDED = ("s", "cpu_time", "gpu_time", "max_rss")
MISSING = "\N{EN DASH}"
EXPLANATION = (
    "Time is that of the last attempt of a job, without waiting in a queue; a training's is that of all its starts, "
    "and its memory that of the GPU where it had one. Sums are over the jobs of a rule."
)


def costs(trainings: list[Path], scores: list[Path], table: Path, page: Path, settings: dict) -> pd.DataFrame:
    """Write the costs of a study, a row a rule.

    Args:
        trainings: the ``cost.json`` of each training.
        scores: that of each score.
        table: TSV to write.
        page: HTML to write, for the report.
        settings: ``records`` (rule to the pattern of its records), ``known`` (wildcard to the values that are the
            study's), ``chunks`` (dataset to its number of jobs), ``study`` (title).

    Returns:
        The table, columns as in ``COLUMNS``.
    """
    rows = [rule_row(rule, read_records(pattern, settings)) for rule, pattern in settings["records"].items()]
    trained = pd.DataFrame([training_record(json.loads(Path(path).read_text())) for path in trainings])
    rows = [rule_row("train", trained) if row["rule"] == "train" else row for row in rows]
    for row in rows:
        row["gpu_hours"] = gpu_hours(scores) if row["rule"] == "score" else row["gpu_hours"]
    result = pd.DataFrame([row for row in rows if row["jobs"]], columns=list(COLUMNS))
    result.to_csv(table, sep="\t", index=False, float_format="%.4g")
    Path(page).write_text(as_html(result, settings["study"]), encoding="utf-8")
    print(result.to_string(index=False))
    return result


def read_records(pattern: str, settings: dict) -> pd.DataFrame:
    """Snakemake's records of one rule, those of the study alone; columns ``s``, ``cpu_time``, ``max_rss`` (MB)."""
    named = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern) + "$")
    paths = sorted(glob.glob(re.sub(r"\{\w+\}", "*", pattern)))
    paths = [path for path in paths if is_known(named.search(path).groupdict(), settings)]
    return pd.concat([pd.read_csv(path, sep="\t", na_values="-") for path in paths]) if paths else pd.DataFrame()


def is_known(names: dict[str, str], settings: dict) -> bool:
    """Whether a job with these wildcards is one of the study as it is configured now."""
    chunk, chunks = names.get("chunk", "0"), settings["chunks"].get(names.get("dataset"), 0)
    if not chunk.isdigit() or int(chunk) > chunks:  # a record of fewer scans a job, or of an older layout
        return False
    return all(value in settings["known"][name] for name, value in names.items() if name in settings["known"])


def gpu_hours(scores: list[Path]) -> float:
    """What the scores took of GPUs, without the start of their jobs; not a number where none had one."""
    found = [json.loads(Path(path).read_text()) for path in scores]
    return sum(cost["gpus"] * cost["wall_seconds"] for cost in found) / 3600 or float("nan")


def training_record(cost: dict) -> dict:
    """The columns of Snakemake's records, of a training."""
    gpus = cost.get("processes", 1) if "GPU" in cost["peak_memory_meaning"] else None
    return {
        "s": cost["wall_seconds"],
        "cpu_time": cost.get("cpu_seconds"),
        "gpu_time": gpus and gpus * cost["wall_seconds"],
        "max_rss": cost["peak_memory_mb"],
    }


def rule_row(rule: str, records: pd.DataFrame) -> dict:
    """Summarise the records of one rule; what none of them knows is empty."""
    columns = {name: pd.to_numeric(records.get(name, pd.Series(dtype=float)), errors="coerce") for name in RECORDED}
    return {
        "rule": rule,
        "jobs": len(records),
        "median_seconds": columns["s"].median(),
        "max_seconds": columns["s"].max(),
        "cpu_hours": columns["cpu_time"].sum(min_count=1) / 3600,
        "gpu_hours": columns["gpu_time"].sum(min_count=1) / 3600,
        "peak_memory_mb": columns["max_rss"].max(),
    }


def as_html(table: pd.DataFrame, study: str) -> str:
    """The table as a page that needs no other file."""
    head = "".join(f"<th>{title}</th>" for title in COLUMNS.values())
    body = "".join(f"<tr>{''.join(f'<td>{cell(value)}</td>' for value in row)}</tr>\n" for row in table.to_numpy())
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(study)}: costs</title>'
        f"<style>{STYLE}</style></head>\n<body><p><b>{escape(study)}: what the jobs took.</b> {EXPLANATION}</p>\n"
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></body></html>\n"
    )


def cell(value) -> str:
    """A name or count as it is, a measure to three digits."""
    if not isinstance(value, float):
        return escape(str(value))
    return MISSING if pd.isna(value) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
