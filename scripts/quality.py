"""Rule ``quality``."""

from pathlib import Path

from brainuad.quality import quality

from brainuad.runtime import start

start(snakemake)
table, montage = (Path(snakemake.output[name]) for name in ("table", "montage"))
quality(
    [Path(name) for name in snakemake.input],
    table,
    montage,
    snakemake.wildcards.dataset,
    snakemake.params.settings,
)
