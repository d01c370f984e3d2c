"""Rule ``metrics``."""

from pathlib import Path

from brainuad.runtime import start

start(snakemake)

from brainuad.metrics import metrics

files = snakemake.input
score, samples = (Path(names[0]).parent for names in (files.score, files.samples))
healthy = [Path(names[0]).parent for names in (files.healthy_score, files.healthy_samples) if names]
kept = {"thresholds": files.thresholds, "healthy": healthy, "settings": snakemake.params.settings}
metrics(score, samples, **kept, **snakemake.output, **snakemake.wildcards)
