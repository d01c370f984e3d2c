"""
Say which models can be told apart, and what a paper printed beside ours.

inputs    results/metrics/{model}/{seed}/{dataset}.*         from evaluate.smk
outputs   results/significance.tsv, results/ranks.tsv        paired tests between all models; mean ranks
          results/paper_difference.tsv, .html                with `comparison.published`
"""


rule significance:
    """Test all pairs of models subject by subject, and rank the models."""
    input:
        metrics=measured(".tsv"),
        subjects=measured(".subjects.tsv"),
    output:
        pairs="results/significance.tsv",
        ranks="results/ranks.tsv",
        figure=report(
            "results/figures/ranks.png",
            caption="report/ranks.rst",
            category="Results",
            labels={"show": "ranks"},
        ),
    log:
        "results/logs/significance.log",
    benchmark:
        "results/benchmarks/significance.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(15),
    params:
        settings=table_settings,
    script:
        "../scripts/significance.py"


rule paper_difference:
    """Put each printed number beside ours."""
    input:
        metrics=measured(".tsv"),
        replicates=measured(".replicates.npz"),
        published=published or [],
    output:
        table="results/paper_difference.tsv",
        page=report(
            "results/paper_difference.html",
            caption="report/paper_difference.rst",
            category="Results",
            labels={"show": "published and ours"},
        ),
    log:
        "results/logs/paper_difference.log",
    benchmark:
        "results/benchmarks/paper_difference.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(15),
    params:
        settings=table_settings,
    script:
        "../scripts/paper_difference.py"
