"""Rule ``comparison``."""

from brainuad.runtime import start

start(snakemake)

from brainuad.comparison import comparison

comparison(**snakemake.input, **snakemake.output, settings=snakemake.params.settings)
