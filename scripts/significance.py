"""Rule ``significance``."""

from brainuad.runtime import start

start(snakemake)

from brainuad.significance import significance

significance(**snakemake.input, **snakemake.output, settings=snakemake.params.settings)
