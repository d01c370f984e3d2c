"""Rule ``paper_difference``."""

from brainuad.runtime import start

start(snakemake)

from brainuad.published import paper_difference

paper_difference(**snakemake.input, **snakemake.output, settings=snakemake.params.settings)
