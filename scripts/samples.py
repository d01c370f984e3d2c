"""Rule ``samples``."""

from pathlib import Path

from brainuad.runtime import start
from brainuad.samples import samples

start(snakemake)
dataset = snakemake.wildcards.dataset
scans, output = Path(f"results/preprocess/{dataset}"), Path(snakemake.output[0]).parent
samples(dataset, quality=Path(snakemake.input.quality), scans=scans, output=output, **snakemake.params)
