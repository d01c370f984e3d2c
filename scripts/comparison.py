"""Rule ``comparison``."""

from brainuad.comparison import comparison
from brainuad.runtime import start

start(snakemake)
comparison(**snakemake.input, **snakemake.output, settings=snakemake.params.settings)
