"""Rule ``calibration``."""

from pathlib import Path

from brainuad.runtime import start

start(snakemake)

from brainuad.calibration import calibration

files, settings = snakemake.input, snakemake.params.settings
scores, samples = ([Path(name).parent for name in names] for names in (files.scored, files.sampled))
scans = [Path("results/preprocess") / folder.name for folder in samples]
model, output = Path(files.model), Path(snakemake.output[0]).parent
calibration(scores, samples, scans, files.quality, model, output, settings)
