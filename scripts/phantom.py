"""Rule ``phantom``."""

from brainuad.runtime import start

start(snakemake)

from brainuad.phantom import phantom

phantom(snakemake.wildcards.scan.removeprefix("sub-"), **snakemake.output, **snakemake.params)
