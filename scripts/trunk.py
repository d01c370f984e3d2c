"""Rule ``trunk``."""

from pathlib import Path

from brainuad.runtime import start

start(snakemake)

from brainuad.trunk import fetch

fetch(snakemake.wildcards.trunk, Path(snakemake.output[0]))
