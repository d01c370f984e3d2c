"""
Add up what the jobs of each rule took.

inputs    results/benchmarks/, written by Snakemake beside every job; cost.json of each training and score
outputs   results/costs.tsv, costs.html
"""


rule costs:
    """Add up what the jobs of each rule took, when all but the report are done: their records are in results/benchmarks/."""
    input:
        last=["results/comparison.tsv", "results/significance.tsv", "results/figures/qualitative.png"],
        response=response_figures(),
        maps=map_tables(),
        groups=compared_groups("groups.tsv"),
        quality=collect("results/quality/{dataset}.tsv", dataset=scans),
        trainings=collect("results/train/{model}/{seed}/cost.json", model=models, seed=seeds),
        scores=collect(
            "results/score/{model}/{seed}/{dataset}/cost.json", model=models, seed=seeds, dataset=config["datasets"]
        ),
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
