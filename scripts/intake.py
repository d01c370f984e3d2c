"""Rule ``intake``."""

from pathlib import Path

from brainuad.runtime import start

start(snakemake)

from brainuad.intake import intake

quality, left_out = ([Path(name) for name in names] for names in (snakemake.input.quality, snakemake.input.left_out))
intake(quality, left_out, Path(snakemake.output[0]), snakemake.params.datasets, snakemake.params.seed)
