"""Rule ``phantom``."""

from brainuad.phantom import phantom
from brainuad.runtime import start

start(snakemake)
phantom(snakemake.wildcards.scan.removeprefix("sub-"), **snakemake.output, **snakemake.params)
