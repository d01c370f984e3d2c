"""Rule ``calibration``."""

from pathlib import Path

from brainuad.runtime import start

start(snakemake)

from brainuad.calibration import calibration

files = snakemake.input
tables = {"scores": files.scored, "samples": files.sampled}
folders = {name: [Path(path).parent for path in paths] for name, paths in tables.items()}
folders["scans"] = [Path("results/preprocess") / path.name for path in folders["samples"]]
output, settings = Path(snakemake.output.mean).parent, snakemake.params.settings
calibration(**folders, quality=files.quality, model=Path(files.model), folder=output, settings=settings)
