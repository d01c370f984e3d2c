"""Rule ``train``."""

from pathlib import Path

from brainuad.runtime import start
from brainuad.training import train

start(snakemake)
samples = sorted({Path(name).parent for name in snakemake.input.samples})
output = {name: Path(path) for name, path in snakemake.output.items()}
upstream = Path(snakemake.input.upstream[0]) if snakemake.input.upstream else None
settings = {**snakemake.params.entry, "training": snakemake.params.training}
train(samples, **output, settings=settings, seed=int(snakemake.wildcards.seed), upstream=upstream)
