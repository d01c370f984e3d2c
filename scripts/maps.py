"""Rule ``maps``."""

from pathlib import Path

from brainuad.runtime import start

start(snakemake)

from brainuad.maps import maps

files, settings = snakemake.input, snakemake.params.settings
folders = {name: Path(files[name][0]).parent for name in ("score", "samples", "calibration")}
folders["scans"] = Path("results/preprocess") / settings["scans_of"]
tree, sources = Path(snakemake.output[0]).parent, snakemake.params.sources
maps(**folders, description=Path(files.description), tree=tree, sources=sources, settings=settings)
