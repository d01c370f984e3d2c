"""Rule ``synthetic``."""

from pathlib import Path

from brainuad.runtime import start

start(snakemake)

from brainuad.synthetic import synthetic

synthetic(Path(snakemake.input[0]).parent, Path(snakemake.output[0]).parent, **snakemake.params)
