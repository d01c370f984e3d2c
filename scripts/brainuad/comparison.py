"""The numbers of all models → the comparison: everything in one wide table, and the paper's Table 2.

Table 2 has a row per model: SSIM of each healthy dataset, then AUROC and AUPRC of each dataset with
anomalies. Floors, which train no weights, stand in a block of their own: a model is of use above them.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from brainuad.metrics import CATALOGUE

__all__ = ["Table2", "as_latex", "as_markdown", "comparison", "table2", "wide_table"]

HEADLINE = ("map", "reconstruction")
MISSING = "\N{EN DASH}"


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


def comparison(
    metrics: list[Path],
    costs: list[Path],
    comparison: Path,
    markdown: Path,
    latex: Path,
    csv: Path,
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
        settings: ``study`` (title), ``simulated``, ``datasets`` (names in order), ``models`` (name to
            ``label`` and ``floor``, in order) and ``region`` of Table 2 (``frame`` or ``brain``).

    Returns:
        The Markdown, which is printed too.

    Raises:
        ValueError: a table holds a model or dataset that the settings do not name.
    """
    rows = pd.concat([pd.read_csv(path, sep="\t", dtype={"model": str, "dataset": str}) for path in metrics])
    refuse_unknown(rows, settings)
    for path in (comparison, markdown, latex, csv):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    wide_table(rows, costs, settings).to_csv(comparison, sep="\t", index=False)
    table = table2(rows, settings)
    numbers(table).to_csv(csv, index=False)
    Path(latex).write_text(as_latex(table), encoding="utf-8")
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
