"""What the report is made of: the study's settings and the files at hand, whichever they are."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from brainuad.catalogue import CATALOGUE
from brainuad.page import Cell
from brainuad.report_figures import Look, looks

__all__ = ["Study", "read", "without_paths"]

# Keys of the configuration whose values are paths or command lines: folders may be named after people or their wards.
PATHS = (
    "manifest",
    "root",
    "pattern",
    "lesion",
    "participants",
    "regions",
    "names",
    "command",
    "weights",
    "published",
)
HIDDEN = "(not shown)"
TEXT = (
    "model",
    "label",
    "dataset",
    "against",
    "metric",
    "region",
    "pooling",
    "map",
    "model_a",
    "model_b",
    "subject",
    "group",
    "sex",
    "site",
    "code",
    "meaning",
    "reason",
    "note",
    "name",
    "in_group",
    "in_reference",
    "outlier",
    "scan",
)


@dataclass(frozen=True)
class Study:
    """The settings of a study and its files.

    Attributes:
        settings: ``study`` (title), ``simulated``, ``datasets`` (names in order), ``models`` (name to ``label`` and
            ``floor``, in order), ``seeds``, ``configuration`` (all of it, for the record).
        files: paths by name, such as ``costs``; a name without files is the same as no name.
    """

    settings: dict
    files: dict[str, list[Path]]

    @cached_property
    def look(self) -> dict[str, Look]:
        """Label and colour of each model."""
        return looks(self.settings["models"])

    def paths(self, name: str) -> list[Path]:
        """All files of a name, none if there are none."""
        return [Path(path) for path in self.files.get(name, ())]

    def table(self, name: str) -> pd.DataFrame | None:
        """The table of a name, or None where it is missing or has no rows."""
        tables = [read(path) for path in self.paths(name)]
        return tables[0] if tables and len(tables[0]) else None

    def jobs(self, name: str) -> Iterator[tuple[str, str, str, Path]]:
        """Model, seed, dataset, path of each file of a name ``…/{model}/{seed}/{dataset}.…``, in the study's order."""
        found = [
            (path.parent.parent.name, path.parent.name, path.name.split(".")[0], path) for path in self.paths(name)
        ]
        models, datasets = list(self.settings["models"]), self.settings["datasets"]
        return iter(sorted(found, key=lambda job: (models.index(job[0]), int(job[1]), datasets.index(job[2]))))

    def file(self, path: Path) -> str:
        """What to call a file on a page: a list of scans by its dataset, what lies elsewhere by its name alone.

        Files in the folder of the study, as in ``results``, keep their paths.
        """
        datasets = self.settings["configuration"].get("datasets", {})
        for dataset, entry in datasets.items():
            if entry.get("manifest") and Path(entry["manifest"]).expanduser() == path.expanduser():
                return f"manifest of {dataset}"
        return path.name if path.is_absolute() or ".." in path.parts else str(path)

    def name(self, model: str) -> Cell:
        """A cell with the model's label behind a dot of its colour; floors carry a dagger."""
        look = self.look[model]
        return Cell(look.label + " †" * look.floor, colour=look.colour)


def without_paths(value: object, key: str = "") -> object:
    """A copy of a configuration, or of a value of it, that shows no path outside the study and no command line."""
    if isinstance(value, dict):
        return {name: without_paths(part, name) for name, part in value.items()}
    if isinstance(value, list):
        return [without_paths(part, key) for part in value]
    return HIDDEN if isinstance(value, str) and (key in PATHS or value.startswith(("/", "~"))) else value


def read(path: Path) -> pd.DataFrame:
    """A table of tabs or commas; names and remarks are text, and empty where nothing is said."""
    separator = "," if Path(path).suffix == ".csv" else "\t"
    table = pd.read_csv(path, sep=separator, dtype=dict.fromkeys(TEXT, str))
    return table.fillna({name: "" for name in TEXT if name in table})


def title_of(metric: str) -> str:
    """The metric's title in the catalogue, or its own name in words."""
    return CATALOGUE[metric].title if metric in CATALOGUE else metric.replace("_", " ")
