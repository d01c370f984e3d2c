"""Rule ``train``."""

from pathlib import Path

from brainuad.runtime import start

start(snakemake)

from brainuad.training import train

samples = sorted({Path(name).parent for name in snakemake.input.samples})
output = {name: Path(path) for name, path in snakemake.output.items()}
begin = {name: Path(snakemake.input[name][0]) for name in ("upstream", "weights", "trunk") if snakemake.input[name]}
train(samples, **output, settings=snakemake.params.settings, seed=int(snakemake.wildcards.seed), **begin)
