"""Rule ``preprocess``."""

from pathlib import Path

from brainuad.preprocessing import preprocess
from brainuad.runtime import start

start(snakemake)
table = Path(snakemake.output[0])
preprocess(snakemake.params.scans, table.parent, table, snakemake.params.settings)
