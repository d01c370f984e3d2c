"""Rule ``train``."""

from pathlib import Path

from brainuad.runtime import start

start(snakemake)

from brainuad.launching import launch

arguments = {name: Path(paths[0]) for name, paths in snakemake.input.items() if paths}
arguments["samples"] = sorted({Path(name).parent for name in snakemake.input.samples})
arguments |= {name: Path(path) for name, path in snakemake.output.items()}
arguments |= {"settings": snakemake.params.settings, "seed": int(snakemake.wildcards.seed)}
launch(arguments, dict(snakemake.resources.items()))
