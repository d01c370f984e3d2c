"""What a job may take of a machine, and where what it took is written down."""

import math
import re

# Walltime of jobs that go through scans one after another, for each of them; memory is that of one scan at a time. Both are
# guesses with room for slow nodes and disks; where they are too short the next attempt gets twice as long.
MINUTES = 2  # to make or preprocess a scan
MINUTES_TO_READ = 0.05  # one that is preprocessed
MINUTES_TO_MAP = 0.5  # to take maps to the grid of a scan, and to draw them
MINUTES_TO_MEASURE = 0.5  # one volume: its regions at each threshold of FROC, and areas; slices take less


def scaled(need):
    """Memory or time that grows with each attempt: what a job was killed for want of, the next try gets.

    `need` is a number, or tells it by the wildcards.
    """

    def resource(wildcards, attempt):
        return (need(wildcards) if callable(need) else need) * attempt

    return resource


def by_scan(least, each):
    """What a job needs that works through scans one after another: so much for each, and no less than `least`.

    The scans are those of its chunk or, without one, of its dataset, or of the one that a synthetic dataset is made from.
    """

    def need(wildcards):
        tables = jobs[scans_of(wildcards.dataset)]
        chosen = [tables[wildcards.chunk]] if hasattr(wildcards, "chunk") else tables.values()
        return max(least, math.ceil(each * sum(map(len, chosen))))

    return need


def cost_settings(wildcards):
    """Where jobs are recorded, by rule, and the names by which a job is one of this study, as others may lie there too."""
    unknown = ("costs", "report")  # they run when the costs are added up, or later
    recorded = [step for step in workflow.rules if step.benchmark and step.name not in unknown]
    records = {step.name: re.sub(r",[^}]*}", "}", str(step.benchmark)) for step in recorded}  # without constraints
    known = {"dataset": list(config["datasets"]), "model": list(models), "seed": [str(seed) for seed in seeds]}
    number_of_chunks = {dataset: len(tables) for dataset, tables in jobs.items()}
    return {"records": records, "known": known, "chunks": number_of_chunks, "study": config["study"]}
