"""Rule ``phantom``."""

from pathlib import Path

from brainuad.runtime import start

start(snakemake)

from brainuad.phantom import phantom

phantom(table=Path(snakemake.output[0]), **snakemake.params)
