"""Blocks of text, tables and pictures → one page of HTML that needs no other file and no network.

What a page says is built of the classes here; how it looks is in ``templates/``. All text is escaped when the page is
rendered, so that labels of a study may hold any sign.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import ClassVar

import matplotlib
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

__all__ = [
    "MINUS",
    "MISSING",
    "Cell",
    "Details",
    "Heading",
    "Links",
    "Listing",
    "Paragraph",
    "Picture",
    "Row",
    "Section",
    "Table",
    "embedded",
    "listed",
    "number",
    "render",
]

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
KINDS = {".png": "image/png", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it shows.
        value: what its column is sorted by; None sorts by the text, NaN comes last.
        note: small print beneath, such as an interval.
        colour: of the dot before the text, as CSS has it.
        strong: whether it is set in bold.
        line: to be copied as it stands, with its tabs; shown beneath.
    """

    text: str
    value: float | None = None
    note: str = ""
    colour: str = ""
    strong: bool = False
    line: str = ""

    @property
    def key(self) -> str:
        """The number to sort by, as an attribute; empty for NaN, which comes last."""
        return "" if self.value is None or math.isnan(self.value) else repr(float(self.value))


@dataclass(frozen=True)
class Row:
    """Cells of a table; those of a floor are set apart."""

    cells: list[Cell]
    floor: bool = False


@dataclass(frozen=True)
class Table:
    """A table that is sorted by a click on the head of a column.

    Attributes:
        columns: titles.
        rows: each with a cell a column.
        caption: what it shows.
        groups: titles above neighbouring columns and how many each spans; none without.
        sortable: whether its rows may be put in another order.
    """

    columns: Sequence[str]
    rows: list[Row]
    caption: str = ""
    groups: Sequence[tuple[str, int]] = ()
    sortable: bool = True
    kind: ClassVar[str] = "table"

    def numeric(self, index: int) -> bool:
        """Whether a column holds numbers."""
        return any(row.cells[index].value is not None for row in self.rows)


@dataclass(frozen=True)
class Picture:
    """An image with its caption, which also names it to those who cannot see it.

    Attributes:
        source: ``data:`` address that holds the image itself.
        caption: what is seen.
        title: a name of a few words.
    """

    source: str
    caption: str
    title: str
    kind: ClassVar[str] = "picture"


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text."""

    text: str
    kind: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class Links:
    """A sentence and what it leads to: titles and addresses of files beside the page."""

    text: str
    targets: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "links"


@dataclass(frozen=True)
class Heading:
    """The title of a part of a section."""

    text: str
    kind: ClassVar[str] = "heading"


@dataclass(frozen=True)
class Listing:
    """Text of fixed width, such as a configuration."""

    text: str
    kind: ClassVar[str] = "listing"


@dataclass(frozen=True)
class Details:
    """Blocks that are shown when their summary is opened."""

    summary: str
    blocks: list
    kind: ClassVar[str] = "details"


@dataclass(frozen=True)
class Section:
    """A part of the page; one without blocks is left out.

    Attributes:
        anchor: its name in addresses.
        title: shown above it and in the table of contents.
        blocks: what it holds, from top to bottom.
    """

    anchor: str
    title: str
    blocks: list = field(default_factory=list)


def render(title: str, notice: str, summary: list[str], date: str, sections: list[Section]) -> str:
    """The page.

    Args:
        title: of the study.
        notice: a warning above everything else; empty for none.
        summary: sentences of plain text that say what the page shows.
        date: when it was made.
        sections: those with blocks are shown and listed in the table of contents.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = [section for section in sections if section.blocks]
    template = environment.get_template("report.html")
    return template.render(title=title, notice=notice, summary=summary, date=date, sections=shown) + "\n"


def embedded(image: Figure | Path | str, kind: str = ".svg") -> str:
    """A figure, as SVG or as ``.png`` where it holds photographs, or an image file, as a ``data:`` address."""
    if isinstance(image, Figure):
        buffer = BytesIO()
        nothing = {".svg": {"Date": None, "Creator": None}, ".png": {"Software": None}}[kind]  # the same each time
        with matplotlib.rc_context({"svg.hashsalt": "brainuad"}):
            image.savefig(buffer, format=kind.removeprefix("."), dpi=150, metadata=nothing)
        return data_address(buffer.getvalue(), kind)
    return data_address(Path(image).read_bytes(), Path(image).suffix)


def data_address(content: bytes, suffix: str) -> str:
    """Bytes of an image as an address that holds them."""
    return f"data:{KINDS[suffix]};base64,{base64.b64encode(content).decode()}"


def number(value: float | None, low: float | None = None, high: float | None = None, **options) -> Cell:
    """A number to three decimals, its interval as small print; a dash where it is unknown."""
    if value is None or math.isnan(value):
        return Cell(MISSING, math.nan)
    known = low is not None and high is not None and not (math.isnan(low) or math.isnan(high))
    return Cell(
        f"{value:.3f}".replace("-", MINUS),
        float(value),
        f"{low:.3f} to {high:.3f}".replace("-", MINUS) if known else "",
        **options,
    )


def listed(names: Sequence[str]) -> str:
    """Names with commas and "and"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
