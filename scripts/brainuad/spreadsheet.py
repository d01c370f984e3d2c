"""A table that a user wrote, TSV or CSV → texts, or a sentence with the file, the line and what to do.

Imports pandas and nothing heavier: each job of a cluster parses the workflow anew.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

__all__ = ["ManifestError", "is_csv", "read_table"]


class ManifestError(ValueError):
    """A dataset that cannot be read; the message is a sentence for the user."""


def read_table(path: Path, kind: str = "manifest") -> pd.DataFrame:
    """Read a table of texts: a CSV by its ending, else a TSV; what is missing (also ``n/a``) becomes an empty text.

    A CSV is separated by commas, or by semicolons as spreadsheets write it where the comma is the decimal sign. Rows
    and unnamed columns without any text, which spreadsheets leave behind, are dropped; the index plus 2 is the line.

    Raises:
        ManifestError: the file is missing or no such table, or a row has more or fewer cells than the header.
    """
    separated = "comma" if is_csv(path) else "tab"
    try:
        lines = list(read_lines(path))
    except FileNotFoundError:
        raise ManifestError(f"The {kind} {path} does not exist.") from None
    except OSError as error:
        raise ManifestError(f"The {kind} {path} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        said = f"{path} is not text in UTF-8 (byte {error.start}: {error.reason})"
        raise ManifestError(f"{said}: save it from the spreadsheet as CSV UTF-8.") from None
    except csv.Error as error:
        raise ManifestError(f"{path} is not a {separated}-separated table ({error}).") from None
    if not lines:
        raise ManifestError(f"{path} is not a {separated}-separated table (it is empty).")
    header = names_of(lines[0][1])
    rows = {number - 2: even(path, number, cells, header) for number, cells in lines[1:]}
    table = pd.DataFrame(list(rows.values()), index=list(rows), columns=header, dtype=str).replace({"n/a": ""})
    unnamed = [column for column in table if column.startswith("Unnamed:") and not table[column].any()]
    return table.drop(columns=unnamed)[table.ne("").any(axis=1)]


def is_csv(path: Path) -> bool:
    """Whether a table is a CSV, by its name's ending."""
    return Path(path).suffix.lower() == ".csv"


def read_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The number of each line that has any text, from 1 for the file's first, and its cells without outer blanks."""
    with open(path, encoding="utf-8-sig") as file:
        header = file.readline()
        file.seek(0)
        separator = ("," if header.count(",") >= header.count(";") else ";") if is_csv(path) else "\t"
        reader, number = csv.reader(file, delimiter=separator, strict=True), 1
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                yield number, cells
            number = reader.line_num + 1  # a quoted cell may go over several


def names_of(header: list[str]) -> list[str]:
    """The names of the columns; those without one, or with one that is there already, are made unlike any other."""
    names = [name or f"Unnamed: {place}" for place, name in enumerate(header)]
    again = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{name}.{times}" if times else name for name, times in zip(names, again, strict=True)]


def even(path: Path, number: int, cells: list[str], header: list[str]) -> list[str]:
    """The cells of a row, one for each column: of another number of them it is unknown which belongs where.

    Empty cells at the end, which spreadsheets add, are no more than that.
    """
    while len(cells) > len(header) and not cells[-1]:
        cells = cells[:-1]
    if len(cells) != len(header):
        hint = "one that holds the separator itself needs quotes" if len(cells) > len(header) else "empty ones count"
        raise ManifestError(
            f"{path}, line {number} has {len(cells)} cells, but the header has {len(header)}, so that it is unknown "
            f"which belongs to which column: give each row as many cells as the header ({hint})."
        )
    return cells
