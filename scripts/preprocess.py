"""Rule ``preprocess``."""

from pathlib import Path

from brainuad.runtime import start

start(snakemake)

from brainuad.preprocessing import preprocess

table = Path(snakemake.output[0])
preprocess(snakemake.params.scans, table.parent, table, snakemake.params.settings)
