"""Rule ``figures``."""

from brainuad.runtime import start

start(snakemake)

from brainuad.figures import figures

figures(**snakemake.input, **snakemake.output, settings=snakemake.params.settings)
