"""Rule ``costs``."""

from brainuad.runtime import start

start(snakemake)

from brainuad.costs import costs

costs(snakemake.input.trainings, snakemake.input.scores, **snakemake.output, settings=snakemake.params.settings)
