"""What a job may take of a machine, and where what it took is written down."""

import re


def scaled(need):
    """Memory or time that grows with each attempt: what a job was killed for want of, the next try gets."""

    def resource(wildcards, attempt):
        return need * attempt

    return resource


def cost_settings(wildcards):
    """Where each rule has its jobs recorded, and by which names a job is one of this study: others may lie beside it."""
    recorded = [rule for rule in workflow.rules if rule.benchmark and rule.name != "costs"]
    records = {rule.name: re.sub(r",[^}]*}", "}", str(rule.benchmark)) for rule in recorded}  # without constraints
    known = {"dataset": list(config["datasets"]), "model": list(models), "seed": [str(seed) for seed in seeds]}
    number_of_chunks = {dataset: len(tables) for dataset, tables in jobs.items()}
    return {"records": records, "known": known, "chunks": number_of_chunks, "study": config["study"]}
