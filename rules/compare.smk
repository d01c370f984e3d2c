"""
Put the numbers of all models side by side.

inputs    results/metrics/{model}/{seed}/{dataset}.tsv                               from evaluate.smk
          results/score/{model}/{seed}/{dataset}/, results/train/{model}/{seed}/     from models.smk
outputs   results/comparison.tsv, results/numbers.tsv      wide and long view of all numbers
          results/summary.tsv                              their means over the seeds, with intervals
          results/table2.*, results/strict.*               a table by each protocol
          results/figures/                                 the paper's Figure 2; learning curves
"""


rule comparison:
    """Put the numbers of all models, seeds and datasets side by side."""
    input:
        metrics=measured(".tsv"),
        replicates=measured(".replicates.npz"),
        costs=collect("results/train/{model}/{seed}/cost.json", model=models, seed=seeds),
    output:
        comparison=report(
            "results/comparison.tsv",
            caption="report/comparison.rst",
            category="Results",
            labels={"show": "all numbers"},
        ),
        long="results/numbers.tsv",
        summary="results/summary.tsv",
        paper=multiext("results/table2", ".md", ".tex", ".csv"),
        strict=multiext("results/strict", ".md", ".tex", ".csv"),
        pages=report(
            expand("results/{table}.html", table=["table2", "strict"]),
            caption="report/tables.rst",
            category="Results",
            labels={"show": "tables"},
        ),
    log:
        "results/logs/comparison.log",
    benchmark:
        "results/benchmarks/comparison.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(15),
    params:
        settings=table_settings,
    script:
        "../scripts/comparison.py"


rule figures:
    """Draw the paper's Figure 2 and the learning curves."""
    input:
        score=collect(
            "results/score/{model}/{seed}/{dataset}/map.npy",
            model=models,
            seed=seeds[0],
            dataset=figure_datasets(),
        ),
        sample_set=collect("results/samples/{dataset}/table.tsv", dataset=figure_datasets()),
        history=collect("results/train/{model}/{seed}/history.tsv", model=models, seed=seeds),
    output:
        qualitative=report(
            "results/figures/qualitative.png",
            caption="report/qualitative.rst",
            category="Results",
            labels={"show": "maps"},
        ),
        learning_curves=report(
            "results/figures/learning_curves.png",
            caption="report/learning_curves.rst",
            category="Training",
            labels={"show": "learning curves"},
        ),
    log:
        "results/logs/figures.log",
    benchmark:
        "results/benchmarks/figures.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(15),
    params:
        settings=figure_settings,
    script:
        "../scripts/figures.py"
