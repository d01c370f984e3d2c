"""Rule ``quality``."""

from pathlib import Path

from brainuad.runtime import start

start(snakemake)

from brainuad.quality import quality

chunks = [Path(name) for name in snakemake.input]
outputs = {name: Path(path) for name, path in snakemake.output.items()}
settings = {**snakemake.params.settings, "simulated": snakemake.params.simulated}
decisions = snakemake.params.decisions
quality(chunks, **outputs, dataset=snakemake.wildcards.dataset, settings=settings, decisions=decisions)
