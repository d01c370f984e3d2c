"""Rule ``metrics``."""

from pathlib import Path

from brainuad.runtime import start

start(snakemake)

from brainuad.metrics import metrics

score, samples = (Path(files[0]).parent for files in (snakemake.input.score, snakemake.input.samples))
metrics(score, samples, Path(snakemake.output[0]), **snakemake.wildcards)
