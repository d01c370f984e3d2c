"""A table of the comparison in Markdown, LaTeX and HTML."""

import re
from collections.abc import Iterator
from html import escape

from brainuad.tables import MINUS, MISSING, Table, title

__all__ = ["STYLE", "as_html", "as_latex", "as_markdown"]

STYLE = (
    "body{font:15px sans-serif;margin:2em} p{max-width:60em;line-height:1.5} table{border-collapse:collapse} "
    "th,td{padding:.35em .8em;text-align:right} th:first-child,td:first-child{text-align:left} "
    "thead th{border-top:2px solid;border-bottom:1px solid} tbody+tbody tr:first-child td{border-top:1px solid}"
)


def cells(table: Table, model: str, bold: str) -> Iterator[str]:
    """The cells of a model; the best of a column in the form ``bold``."""
    for column in table.columns:
        cell = table.cell(model, column)
        if model in table.best(column):
            value, *rest = cell.split(" ", 1)
            cell = " ".join([bold.format(value), *rest])
        yield cell
    for gap in table.gaps:
        yield table.gap_cell(model, gap)


def as_markdown(table: Table) -> str:
    """A GitHub-flavoured pipe table under its caption."""
    titles = table.titles()
    lines = [["Model", *titles], [":---", *("---:" for _ in titles)]]
    lines += [[table.labels[model], *cells(table, model, "**{}**")] for model in table.block(floors=False)]
    if table.floors:
        lines.append(["*Floors*", *("" for _ in titles)])
    lines += [[f"{table.labels[model]} †", *cells(table, model, "{}")] for model in table.block(floors=True)]
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"**{table.caption[0]}** {' '.join(table.caption[1:])}\n\n{body}\n"


def as_latex(table: Table) -> str:
    """A table for LaTeX; the document needs the packages booktabs and graphicx."""
    groups = spans(table)
    width = sum(count for _, count in groups) + 1
    names = [title(key) for key in table.columns] + [table.gap_title(gap) for gap in table.gaps]
    heads = (rf"\multicolumn{{{n}}}{{c}}{{{escaped(name)}}}" for name, n in groups)
    lines = [" & ".join(["", *heads]) + r" \\", latex_rules(groups)]
    lines += [" & ".join(["Model", *map(escaped, names)]) + r" \\", r"\midrule"]
    for floors in (False, True):
        if floors and table.floors:
            lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\textit{{Floors}}}} \\"]
        for model in table.block(floors):
            label = escaped(table.labels[model]) + (r"\textsuperscript{\dag}" if floors else "")
            lines.append(" & ".join([label, *map(latex_cell, cells(table, model, "<b>{}</b>"))]) + r" \\")
    head = [
        "% needs \\usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(' '.join(table.caption))}}}",
        rf"\label{{tab:{table.protocol}}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{l{'c' * (width - 1)}}}",
        r"\toprule",
    ]
    return "\n".join([*head, *lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""])


def spans(table: Table) -> list[tuple[str, int]]:
    """Neighbouring columns of one dataset: its name and how many."""
    groups: list[tuple[str, int]] = []
    for dataset in [key[0] for key in table.columns] + [gap.key[0] for gap in table.gaps]:
        if groups and groups[-1][0] == dataset:
            groups[-1] = (dataset, groups[-1][1] + 1)
        else:
            groups.append((dataset, 1))
    return groups


def latex_rules(groups: list[tuple[str, int]]) -> str:
    """A line under each dataset's columns."""
    rules, start = [], 2
    for _, count in groups:
        rules.append(rf"\cmidrule(lr){{{start}-{start + count - 1}}}")
        start += count
    return " ".join(rules)


def latex_cell(cell: str) -> str:
    """A cell with its signs and weight in LaTeX; braces keep the bracket of an interval from being an option."""
    text = re.sub(r"<b>(.*?)</b>", r"\\textbf{\1}", cell).replace(" ± ", r" $\pm$ ").replace(MINUS, "$-$")
    return re.sub(r"(\[.*?\])", r"{\1}", text).replace(MISSING, "--")


def escaped(text: str) -> str:
    """Text in which nothing is a command of LaTeX."""
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    signs |= {"†": r"\textsuperscript{\dag}", MISSING: "--", MINUS: "$-$", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}
    signs |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
    return "".join(signs.get(sign, sign) for sign in text)


def as_html(table: Table) -> str:
    """A page that needs no other file: the report shows it."""
    head = "".join(f"<th>{escape(name)}</th>" for name in ["Model", *table.titles()])
    blocks = ""
    for floors in (False, True):
        rows = ""
        for model in table.block(floors):
            label = escape(table.labels[model]) + " †" * floors
            rows += (
                f"<tr><td>{label}</td>{''.join(f'<td>{cell}</td>' for cell in cells(table, model, '<b>{}</b>'))}</tr>\n"
            )
        blocks += f"<tbody>\n{rows}</tbody>\n"
    head_line, *sentences = map(escape, table.caption)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{head_line}</title>'
        f"<style>{STYLE}</style></head>\n<body><p><b>{head_line}</b> {' '.join(sentences)}</p>\n"
        f"<table><thead><tr>{head}</tr></thead>\n{blocks}</table></body></html>\n"
    )
