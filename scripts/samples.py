"""Rule ``samples``."""

from pathlib import Path

from brainuad.runtime import start

start(snakemake)

from brainuad.samples import samples

dataset = snakemake.wildcards.dataset
scans, output = Path(f"results/preprocess/{dataset}"), Path(snakemake.output[0]).parent
samples(dataset, quality=Path(snakemake.input.quality), scans=scans, output=output, **snakemake.params)
