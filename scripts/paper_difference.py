"""Rule ``paper_difference``."""

from brainuad.runtime import start

start(snakemake)

from brainuad.paper_difference import paper_difference

paper_difference(**snakemake.input, **snakemake.output, settings=snakemake.params.settings)
