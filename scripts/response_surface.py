"""Rule ``response_surface``."""

from brainuad.runtime import start

start(snakemake)

from brainuad.response_surface import response_surface

response_surface(list(snakemake.input), **snakemake.output, settings=snakemake.params.settings)
