"""Rule ``groups``."""

from pathlib import Path

from brainuad.runtime import start

start(snakemake)

from brainuad.groups import groups

files = {name: Path(path) for name, path in snakemake.output.items()}
groups(Path(snakemake.input.table), files.pop("folder"), files, snakemake.params.settings)
