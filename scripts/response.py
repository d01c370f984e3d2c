"""Rule ``response``."""

from pathlib import Path

from brainuad.runtime import start

start(snakemake)

from brainuad.response import response

score, samples = (Path(files[0]).parent for files in (snakemake.input.score, snakemake.input.samples))
thresholds, table = Path(snakemake.input.thresholds), Path(snakemake.output[0])
response(score, samples, thresholds, table, **snakemake.wildcards, **snakemake.params)
