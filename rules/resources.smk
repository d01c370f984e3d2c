"""
What a job may take of a machine, and what the jobs of each rule took.

inputs    results/benchmarks/, written by Snakemake beside every job; results/train/{model}/{seed}/cost.json
outputs   results/costs.tsv, costs.html
"""

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


rule costs:
    """Add up what the jobs of each rule took, when all others are done: their records are in results/benchmarks/."""
    input:
        last=["results/comparison.tsv", "results/figures/qualitative.png"],
        quality=collect("results/quality/{dataset}.tsv", dataset=scans),
        trainings=collect("results/train/{model}/{seed}/cost.json", model=models, seed=seeds),
    output:
        table="results/costs.tsv",
        page=report("results/costs.html", caption="report/costs.rst", category="Costs", labels={"show": "costs"}),
    log:
        "results/logs/costs.log",
    benchmark:
        "results/benchmarks/costs.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(15),
    params:
        settings=cost_settings,
    script:
        "../scripts/costs.py"
