"""Rule ``quality``."""

from pathlib import Path

from brainuad.runtime import start

start(snakemake)

from brainuad.quality import quality
from brainuad.quality_page import quality_page

chunks, (table, montage, page) = ([Path(name) for name in names] for names in (snakemake.input, snakemake.output))
settings = {**snakemake.params.settings, "simulated": snakemake.params.simulated, "heights": snakemake.params.heights}
scans = quality(chunks, table, montage, snakemake.wildcards.dataset, settings, snakemake.params.decisions)
quality_page(scans, page, montage, snakemake.wildcards.dataset, settings)
