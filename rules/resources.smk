"""What a job may take of a machine, and where what it took is written down."""

import re


def scaled(need):
    """Memory or time that grows with each attempt: what a job was killed for want of, the next try gets."""

    def resource(wildcards, attempt):
        return need * attempt

    return resource


def cost_settings(wildcards):
    """Where jobs are recorded, by rule, and the names by which a job is one of this study, as others may lie there too."""
    unknown = ("costs", "report")  # they run when the costs are added up, or later
    recorded = [step for step in workflow.rules if step.benchmark and step.name not in unknown]
    records = {step.name: re.sub(r",[^}]*}", "}", str(step.benchmark)) for step in recorded}  # without constraints
    known = {"dataset": list(config["datasets"]), "model": list(models), "seed": [str(seed) for seed in seeds]}
    number_of_chunks = {dataset: len(tables) for dataset, tables in jobs.items()}
    return {"records": records, "known": known, "chunks": number_of_chunks, "study": config["study"]}
