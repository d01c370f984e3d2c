"""The comparison as a table of one protocol: a row a model, the healthy datasets, then those with anomalies.

Floors, which train no weights, stand in a block of their own: a model is of use above them, and the last columns say
whether it is.
"""

from dataclasses import dataclass, field, replace

import pandas as pd

from brainuad.catalogue import CATALOGUE, PROTOCOLS, REGIONS
from brainuad.results import KEY, Results, verdict

__all__ = ["MISSING", "Gap", "Table", "make_table", "numbers"]

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
FEW = 20  # subjects, below which intervals are said to be too narrow
COLUMNS = ("model", "label", "floor", *KEY, "against", "value", "sd", "low", "high", "reason")
Key = tuple[str, str, str, str]  # dataset, metric, region, pooling


@dataclass(frozen=True)
class Gap:
    """How far each model is above a floor on one number."""

    key: Key
    floor: str
    values: dict[str, tuple[float, float, float]]


@dataclass(frozen=True)
class Table:
    """A table before it is given a form.

    Attributes:
        protocol: its name.
        columns: the numbers shown.
        labels: name of each model to show, in order.
        floors: models among ``labels`` that are floors.
        summary: see :attr:`Results.summary`.
        gaps: the columns that hold the models against a floor.
        caption: sentences of plain text, the first of which is the title.
    """

    protocol: str
    columns: list[Key]
    labels: dict[str, str]
    floors: set[str]
    summary: pd.DataFrame
    gaps: list[Gap]
    caption: list[str] = field(default_factory=list)

    def cell(self, model: str, column: Key) -> str:
        """Mean, standard deviation over several seeds, interval."""
        if (model, *column) not in self.summary.index:
            return MISSING
        known = self.summary.loc[(model, *column)]
        if pd.isna(known["value"]):
            return MISSING
        spread = "" if pd.isna(known["sd"]) else f" ± {known['sd']:.3f}"
        return f"{known['value']:.3f}{spread}{bounds(known['low'], known['high'])}"

    def gap_cell(self, model: str, gap: Gap) -> str:
        """Difference to the floor, its interval, and what that says."""
        if model in self.floors or pd.isna(gap.values[model][0]):
            return MISSING
        value, low, high = gap.values[model]
        said = verdict(low, high, CATALOGUE[gap.key[1]].direction == "higher is better")
        return signed(value) + (f" [{signed(low)}, {signed(high)}] {said}" if said else "")

    def gap_reason(self, model: str, gap: Gap) -> str:
        """Why a trained model's value has no difference to the floor, or that no interval; empty if all is there."""
        value, low, _ = gap.values[model]
        if model in self.floors or pd.isna(self.summary["value"].get((model, *gap.key))):
            return ""
        if pd.isna(value):
            return f"{self.labels[gap.floor]} has no value, or one of other subjects"
        return "no interval: undefined or the same in too many draws of the subjects" if pd.isna(low) else ""

    def best(self, column: Key) -> set[str]:
        """The trained models with the best mean, to the digits shown; none where one alone has a value or none is due.

        See ``merit`` of :class:`brainuad.catalogue.Metric`.
        """
        if not CATALOGUE[column[1]].merit:
            return set()
        means = {model: self.cell(model, column).split(" ")[0] for model in self.labels if model not in self.floors}
        known = {model: float(mean) for model, mean in means.items() if mean != MISSING}
        wanted = max if CATALOGUE[column[1]].direction == "higher is better" else min
        return {model for model, mean in known.items() if mean == wanted(known.values())} if len(known) > 1 else set()

    def block(self, floors: bool) -> list[str]:
        """The models of one block."""
        return [model for model in self.labels if (model in self.floors) == floors]

    def titles(self) -> list[str]:
        """Titles of the columns, each with the arrow of the better direction, then those of the gaps."""
        names = [f"{key[0]} {title(key)}" for key in self.columns]
        return names + [f"{gap.key[0]} {self.gap_title(gap)}" for gap in self.gaps]

    def gap_title(self, gap: Gap) -> str:
        """Title of a gap without its dataset."""
        return f"{named(gap.key)} {MINUS} {self.labels[gap.floor]}"


def title(key: Key) -> str:
    """Title of a number without its dataset, with the arrow of the better direction."""
    return f"{named(key)} {'↑' if CATALOGUE[key[1]].direction == 'higher is better' else '↓'}"


def named(key: Key) -> str:
    """Metric, region and pooling of a number."""
    return f"{CATALOGUE[key[1]].title} ({key[2]}, {key[3]})"


def bounds(low: float, high: float) -> str:
    """An interval, empty if there is none."""
    return "" if pd.isna(low) or pd.isna(high) else f" [{low:.3f}, {high:.3f}]"


def signed(value: float) -> str:
    """A difference with its sign."""
    return f"{value:+.3f}".replace("-", MINUS)


def make_table(results: Results, protocol: str, settings: dict) -> Table:
    """Choose what a protocol shows.

    Args:
        results: the numbers of all models.
        protocol: ``paper`` or ``strict``.
        settings: see :func:`brainuad.comparison.comparison`.
    """
    shown = settings["datasets"]
    anomalous = [name for name in shown if name in results.anomalous]
    healthy = [name for name in shown if name not in anomalous]
    groups = PROTOCOLS[protocol]
    columns = [(name, *number) for name in healthy for number in groups["healthy"]]
    columns += [(name, *number) for name in anomalous for number in groups["anomalous"]]
    labels = {name: entry.get("label") or name for name, entry in settings["models"].items()}
    floors = {name for name, entry in settings["models"].items() if entry["floor"]}
    gaps = []
    for key in columns:
        if key[1] == "average_precision":
            floor = settings["floor"] or results.strongest(sorted(floors), key)
            if floor is not None:
                values = {model: results.difference(model, floor, key) for model in labels}
                gaps.append(Gap(key, floor, values))
    table = Table(protocol, columns, labels, floors, results.summary, gaps)
    return replace(table, caption=[*caption(table, settings), *findings(table), *unknown(table)])


def caption(table: Table, settings: dict) -> list[str]:
    """What a reader must know to read the numbers, in sentences; the first is the title."""
    shown, summary = {key[1] for key in table.columns}, table.summary
    columns = [key for key, value in summary["value"].items() if key[1:] in set(table.columns) and not pd.isna(value)]
    sentences = [f"{settings['study']}: protocol {table.protocol}."]
    if settings["simulated"]:
        sentences.append("All scans are simulated: the numbers say nothing about real brains.")
    sentences.append(f"What counts is {counted(table.protocol)}.")
    images = {key[1]: summary.loc[key, "n"] for key in columns if key[2] == "ssim"}
    if images:
        sentences.append(f"Test images: {', '.join(f'{name} {number:.0f}' for name, number in images.items())}.")
    shares = {key[1]: summary.loc[key, "prevalence"] for key in columns if key[2] == "average_precision"}
    if shares:
        listed = ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
        sentences.append(f"A score that knows nothing has the prevalence as its AUPRC: {listed}.")
    if "dice_5" in shown or "false_positive_rate_5" in shown:
        sentences.append("The threshold lets 5 % of the pixels of healthy validation subjects pass.")
    seeds = summary.loc[columns, "seeds"].max() if columns else 1
    if seeds > 1:
        sentences.append(f"Mean ± standard deviation of up to {seeds} seeds.")
    sentences += certainty(table, min(summary.loc[columns, "subjects"]) if columns else FEW)
    if len(settings["models"]) - len(table.floors) > 1:
        best = "Bold: best trained model of a column"
        sentences.append(f"{best}; false positives are no merit." if "false_positive_rate_5" in shown else f"{best}.")
    if table.floors:
        sentences.append("† Floor: a method that trains no weights; a model is of use only above it.")
    return sentences


def certainty(table: Table, subjects: float) -> list[str]:
    """What the intervals are, and what they are worth of so few subjects."""
    shares = [metric for metric in dict.fromkeys(key[1] for key in table.columns) if CATALOGUE[metric].share]
    titles = ", ".join(CATALOGUE[metric].title for metric in shares)
    method = f"bootstrap; of {titles} Wilson's, from the same draws" if shares else "bootstrap"
    sentences = [f"In brackets: 95 % interval over the test subjects ({method})."]
    if subjects < FEW:
        those = "those of the bootstrap hold" if shares else "intervals hold"
        sentences.append(f"Of few subjects, here {subjects:.0f} at the least, {those} less often than they claim.")
    return sentences


def counted(protocol: str) -> str:
    """In words, the regions and poolings of a protocol."""
    words = {"images": "image by image", "subjects": "subject by subject", "lesions": "lesion by lesion"}
    words["pixels"] = "over the pixels of all test images together"
    groups: dict[tuple[str, str], list[str]] = {}
    for metric, region, pooling in (number for group in PROTOCOLS[protocol].values() for number in group):
        groups.setdefault((region, pooling), []).append(CATALOGUE[metric].title)
    parts = [f"{', '.join(titles)} {words[pooling]}" for (_, pooling), titles in groups.items()]
    regions = " and ".join(REGIONS[region] for region in dict.fromkeys(region for region, _ in groups))
    return f"{regions}: {'; '.join(parts)}"


def findings(table: Table) -> list[str]:
    """Who is above the floor, a sentence for each column that asks."""
    sentences = []
    for gap in table.gaps:
        up = CATALOGUE[gap.key[1]].direction == "higher is better"
        models = [model for model in table.block(floors=False) if not pd.isna(gap.values[model][0])]
        above = [table.labels[model] for model in models if verdict(*gap.values[model][1:], up) == "above"]
        if models:
            who = ", ".join(above) or "no learned model"
            what = f"{CATALOGUE[gap.key[1]].title} of {gap.key[0]}"
            sentences.append(f"Above the floor {table.labels[gap.floor]} in {what}: {who}.")
    return sentences


def unknown(table: Table) -> list[str]:
    """Why cells are empty or have no interval, a sentence for each reason."""
    places: dict[str, list[str]] = {}
    for key in table.columns:
        for model, label in table.labels.items():
            if (model, *key) in table.summary.index and (reason := table.summary.loc[(model, *key), "reason"]):
                places.setdefault(reason, []).append(f"{label} in {key[0]} {CATALOGUE[key[1]].title}")
    for gap in table.gaps:
        for model in table.block(floors=False):
            if not (reason := table.gap_reason(model, gap)):
                continue
            where = f"{table.labels[model]} in {gap.key[0]} {CATALOGUE[gap.key[1]].title} {MINUS}"
            places.setdefault(reason, []).append(f"{where} {table.labels[gap.floor]}")
    sentences = []
    for reason, names in places.items():
        start = "No interval" if reason.startswith("no interval: ") else "Empty"
        sentences.append(f"{start}, since {reason.removeprefix('no interval: ')}: {', '.join(names)}.")
    return sentences


def numbers(table: Table) -> pd.DataFrame:
    """The table as numbers, a row a cell.

    Returns:
        Columns ``COLUMNS``; ``against`` names the floor of a difference and is empty elsewhere, ``sd`` is over seeds.
    """
    rows = []
    for model, label in table.labels.items():
        shared = {"model": model, "label": label, "floor": model in table.floors}
        for key in table.columns:
            known = table.summary.loc[(model, *key)] if (model, *key) in table.summary.index else {}
            values = {name: known.get(name) for name in ("value", "sd", "low", "high", "reason")}
            rows.append({**shared, **dict(zip(KEY, key, strict=True)), **values})
        for gap in table.gaps:
            values = dict(zip(("value", "low", "high"), gap.values[model], strict=True))
            values |= {"against": gap.floor, "reason": table.gap_reason(model, gap)}
            rows.append({**shared, **dict(zip(KEY, gap.key, strict=True)), **values})
    return pd.DataFrame(rows, columns=list(COLUMNS))
