"""
Show what each model finds and what it is blind to, on datasets with a grid of synthetic anomalies.

inputs    results/score/{model}/{seed}/{dataset}/            from models.smk
          results/thresholds/{model}/{seed}.tsv              from evaluate.smk
outputs   results/response/{model}/{seed}/{dataset}.tsv      one row a cell: kind, size, intensity
          results/figures/response_*_{dataset}.png           heat maps size × intensity, by kind and model
"""


rule response:
    """Measure one model in each cell of a grid."""
    input:
        score=multiext("results/score/{model}/{seed}/{dataset}/", "map.npy", "table.tsv"),
        samples=multiext("results/samples/{dataset}/", "brain.npy", "lesion.npy", "table.tsv"),
        thresholds="results/thresholds/{model}/{seed}.tsv",
    output:
        "results/response/{model}/{seed}/{dataset}.tsv",
    log:
        "results/logs/response/{model}/{seed}/{dataset}.log",
    benchmark:
        "results/benchmarks/response/{model}/{seed}/{dataset}.tsv"
    wildcard_constraints:
        dataset="|".join(grids) or "none",
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(15),
    params:
        resamples=config["comparison"]["resamples"],
    script:
        "../scripts/response.py"


rule response_surface:
    """Draw the response of all models to a grid."""
    input:
        collect("results/response/{model}/{seed}/{{dataset}}.tsv", model=models, seed=seeds),
    output:
        average_precision=report(
            "results/figures/response_average_precision_{dataset}.png",
            caption="report/response_surface.rst",
            category="Results",
            labels={"show": "average precision by size and intensity, {dataset}"},
        ),
        detection=report(
            "results/figures/response_detection_{dataset}.png",
            caption="report/response_surface.rst",
            category="Results",
            labels={"show": "detection by size and intensity, {dataset}"},
        ),
    log:
        "results/logs/response_surface/{dataset}.log",
    benchmark:
        "results/benchmarks/response_surface/{dataset}.tsv"
    wildcard_constraints:
        dataset="|".join(grids) or "none",
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(15),
    params:
        settings=response_settings,
    script:
        "../scripts/response_surface.py"
