"""Rule ``report``."""

from pathlib import Path

from brainuad.runtime import start

start(snakemake)

from brainuad.report import report

report(Path(snakemake.output[0]), dict(snakemake.input.items()), snakemake.params.settings)
