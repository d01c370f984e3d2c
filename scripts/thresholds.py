"""Rule ``thresholds``."""

from pathlib import Path

from brainuad.runtime import start

start(snakemake)

from brainuad.thresholds import thresholds

tables = snakemake.input.scored, snakemake.input.sampled
scores, samples = ([Path(name).parent for name in files] for files in tables)
thresholds(scores, samples, Path(snakemake.output[0]), snakemake.params.references)
