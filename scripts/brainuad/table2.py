"""The paper's Table 2: a row per model, SSIM of each healthy dataset, then AUROC and AUPRC of each with anomalies.

Floors, which train no weights, stand in a block of their own: a model is of use above them.
"""

from dataclasses import dataclass
from html import escape

import pandas as pd

from brainuad.metrics import CATALOGUE

__all__ = ["HEADLINE", "Table2", "as_html", "as_latex", "as_markdown", "numbers", "table2"]

HEADLINE = ("map", "reconstruction")  # the maps whose numbers are shown
MISSING = "\N{EN DASH}"
STYLE = (
    "body{font:15px sans-serif;margin:2em} p{max-width:60em;line-height:1.5} table{border-collapse:collapse} "
    "th,td{padding:.35em .8em;text-align:right} th:first-child,td:first-child{text-align:left} "
    "thead th{border-top:2px solid;border-bottom:1px solid} tbody+tbody tr:first-child td{border-top:1px solid}"
)


@dataclass(frozen=True)
class Table2:
    """The paper's Table 2, before it is given a form.

    Attributes:
        columns: (dataset, metric) of each column.
        labels: name of each model to show, in order.
        floors: models among ``labels`` that are floors.
        values: mean and sd over the seeds and their count; index (model, dataset, metric).
        caption: sentences of plain text.
    """

    columns: list[tuple[str, str]]
    labels: dict[str, str]
    floors: set[str]
    values: pd.DataFrame
    caption: list[str]

    def cell(self, model: str, column: tuple[str, str]) -> str:
        """Mean and, of several seeds, standard deviation."""
        if (model, *column) not in self.values.index:
            return MISSING
        mean, sd, _ = self.values.loc[(model, *column)]
        if pd.isna(mean):
            return MISSING
        return f"{mean:.3f}" if pd.isna(sd) else f"{mean:.3f} ± {sd:.3f}"

    def best(self, column: tuple[str, str]) -> set[str]:
        """The trained models with the highest mean, to the digits shown; none where only one has a value."""
        means = {model: self.cell(model, column).split(" ")[0] for model in self.labels if model not in self.floors}
        known = {model: float(mean) for model, mean in means.items() if mean != MISSING}
        return {model for model, mean in known.items() if mean == max(known.values())} if len(known) > 1 else set()

    def block(self, floors: bool) -> list[str]:
        """The models of one block."""
        return [model for model in self.labels if (model in self.floors) == floors]


def table2(rows: pd.DataFrame, settings: dict) -> Table2:
    """Summarise the seeds of each model.

    Args:
        rows: metrics in long format.
        settings: see :func:`comparison`.
    """
    rows = rows[rows["map"].isin(HEADLINE) & (rows["region"] == settings["region"])]
    anomalous = [name for name in settings["datasets"] if name in set(rows.loc[rows["metric"] == "auroc", "dataset"])]
    healthy = [name for name in settings["datasets"] if name not in anomalous]
    columns = [(name, "ssim") for name in healthy]
    columns += [(name, metric) for name in anomalous for metric in ("auroc", "average_precision")]
    values = rows.groupby(["model", "dataset", "metric"])["value"].agg(["mean", "std", "count"])
    labels = {name: entry.get("label") or name for name, entry in settings["models"].items()}
    floors = {name for name, entry in settings["models"].items() if entry["floor"]}
    return Table2(columns, labels, floors, values, caption(rows, columns, values, floors, settings))


def caption(
    rows: pd.DataFrame, columns: list[tuple[str, str]], values: pd.DataFrame, floors: set[str], settings: dict
) -> list[str]:
    """What a reader must know to read the numbers, in sentences; the first is the title."""
    pixels = {"frame": "every pixel of the frame", "brain": "the pixels inside the brain mask"}
    sentences = [
        f"{settings['study']}.",
        "SSIM is the mean over the test images of healthy scans; AUROC and AUPRC (average precision) pool "
        f"the pixels of all test images; both count {pixels[settings['region']]}.",
    ]
    if settings["simulated"]:
        sentences.insert(1, "All scans are simulated: the numbers say nothing about real brains.")
    images = rows[rows["metric"] == "ssim"].groupby("dataset")["n"].max()
    shown = [name for name in dict(columns) if name in images]
    if shown:
        sentences.append(f"Test images: {', '.join(f'{name} {images[name]:.0f}' for name in shown)}.")
    shares = rows[rows["metric"] == "average_precision"].groupby("dataset")["prevalence"].mean()
    if len(shares):
        listed = ", ".join(f"{name} {shares[name]:.3f}" for name in dict(columns) if name in shares)
        sentences.append(f"A random score has AUROC 0.500 and, as AUPRC, the prevalence: {listed}.")
    if values["count"].max() > 1:
        sentences.append(f"Mean ± standard deviation of up to {values['count'].max()} seeds.")
    if len(settings["models"]) - len(floors) > 1:
        sentences.append("Bold: best trained model of a column.")
    if floors:
        sentences.append("† Floor: a method that trains no weights; a model is of use only above it.")
    return sentences


def titles(table: Table2) -> list[str]:
    """Column titles on one line."""
    return [f"{dataset} {CATALOGUE[metric].title}" for dataset, metric in table.columns]


def numbers(table: Table2) -> pd.DataFrame:
    """Table 2 as numbers: mean and sd of each column (sd empty for a single seed)."""
    rows = []
    for model, label in table.labels.items():
        row = {"model": model, "label": label, "floor": model in table.floors}
        for title, column in zip(titles(table), table.columns, strict=True):
            known = (model, *column) in table.values.index
            mean, sd, _ = table.values.loc[(model, *column)] if known else (None, None, 0)
            row |= {title: mean, f"{title} sd": sd}
        rows.append(row)
    return pd.DataFrame(rows)


def as_markdown(table: Table2) -> str:
    """Table 2 as a GitHub-flavoured pipe table under its caption."""
    lines = [
        ["Model", *(f"{title} ↑" for title in titles(table))],
        [":---", *("---:" for _ in table.columns)],
    ]
    for model in table.block(floors=False):
        lines.append([table.labels[model], *(emphasised(table, model, column, "**{}**") for column in table.columns)])
    if table.floors:
        lines.append(["*Floors*", *("" for _ in table.columns)])
    for model in table.block(floors=True):
        lines.append([f"{table.labels[model]} †", *(table.cell(model, column) for column in table.columns)])
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"**{table.caption[0]}** {' '.join(table.caption[1:])}\n\n{body}\n"


def emphasised(table: Table2, model: str, column: tuple[str, str], form: str) -> str:
    """A cell, in ``form`` if it is the best of its column."""
    cell = table.cell(model, column)
    return form.format(cell) if model in table.best(column) else cell


def as_latex(table: Table2) -> str:
    """Table 2 for LaTeX; the document needs the package booktabs."""
    width = len(table.columns) + 1
    lines = [latex_datasets(table), latex_rules(table)]
    lines.append(
        " & ".join(["Model", *(f"{CATALOGUE[metric].title} $\\uparrow$" for _, metric in table.columns)]) + r" \\"
    )
    lines.append(r"\midrule")
    for floors in (False, True):
        if floors and table.floors:
            lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\textit{{Floors}}}} \\"]
        for model in table.block(floors):
            label = escaped(table.labels[model]) + (r"\textsuperscript{\dag}" if floors else "")
            cells = (emphasised(table, model, column, "<b>{}") for column in table.columns)
            lines.append(" & ".join([label, *map(latex_cell, cells)]) + r" \\")
    head = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(' '.join(table.caption))}}}",
        r"\label{tab:comparison}",
        rf"\begin{{tabular}}{{l{'c' * len(table.columns)}}}",
        r"\toprule",
    ]
    return "\n".join([*head, *lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def spans(table: Table2) -> list[tuple[str, int]]:
    """Neighbouring columns of one dataset: its name and how many."""
    groups: list[tuple[str, int]] = []
    for dataset, _ in table.columns:
        if groups and groups[-1][0] == dataset:
            groups[-1] = (dataset, groups[-1][1] + 1)
        else:
            groups.append((dataset, 1))
    return groups


def latex_datasets(table: Table2) -> str:
    """The line of dataset names."""
    return " & ".join(["", *(rf"\multicolumn{{{n}}}{{c}}{{{escaped(name)}}}" for name, n in spans(table))]) + r" \\"


def latex_rules(table: Table2) -> str:
    """A rule under each dataset name."""
    rules, start = [], 2
    for _, count in spans(table):
        rules.append(rf"\cmidrule(lr){{{start}-{start + count - 1}}}")
        start += count
    return " ".join(rules)


def latex_cell(cell: str) -> str:
    """A cell with its signs and weight in LaTeX."""
    bold = cell.startswith("<b>")
    text = cell.removeprefix("<b>").replace(" ± ", r" $\pm$ ").replace(MISSING, "--")
    return rf"\textbf{{{text}}}" if bold else text


def escaped(text: str) -> str:
    """Text in which nothing is a command of LaTeX."""
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    signs |= {"†": r"\textsuperscript{\dag}", MISSING: "--", "↑": r"$\uparrow$"}
    signs |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
    return "".join(signs.get(sign, sign) for sign in text)


def as_html(table: Table2) -> str:
    """Table 2 as a page that needs no other file: the report shows it."""
    head = "".join(f"<th>{escape(title)}</th>" for title in ["Model", *(f"{title} ↑" for title in titles(table))])
    blocks = ""
    for floors in (False, True):
        rows = ""
        for model in table.block(floors):
            cells = (emphasised(table, model, column, "<b>{}</b>") for column in table.columns)
            label = escape(table.labels[model]) + " †" * floors
            rows += f"<tr><td>{label}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"
        blocks += f"<tbody>\n{rows}</tbody>\n"
    title, *sentences = map(escape, table.caption)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head>\n<body><p><b>{title}</b> {' '.join(sentences)}</p>\n"
        f"<table><thead><tr>{head}</tr></thead>\n{blocks}</table></body></html>\n"
    )
