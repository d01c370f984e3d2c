"""Rule ``score``."""

from pathlib import Path

from brainuad.runtime import start

start(snakemake)

from brainuad.scoring import score

model, trunk = Path(snakemake.input.model), Path(snakemake.input.trunk)
samples, folder = Path(snakemake.input.samples[0]).parent, Path(snakemake.output[0]).parent
score(model, samples, trunk, folder, {**snakemake.params.settings, "device": snakemake.params.device})
