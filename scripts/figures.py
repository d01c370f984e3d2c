"""Rule ``figures``."""

from brainuad.figures import figures
from brainuad.runtime import start

start(snakemake)
figures(**snakemake.input, **snakemake.output, settings=snakemake.params.settings)
