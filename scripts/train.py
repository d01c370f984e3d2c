"""Rule ``train``."""

from pathlib import Path

from brainuad.runtime import start

start(snakemake)

from brainuad.training import train

samples = sorted({Path(name).parent for name in snakemake.input.samples})
output = {name: Path(path) for name, path in snakemake.output.items()}
upstream = Path(snakemake.input.upstream[0]) if snakemake.input.upstream else None
train(samples, **output, settings=snakemake.params.settings, seed=int(snakemake.wildcards.seed), upstream=upstream)
