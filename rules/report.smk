"""
Put everything on one page that opens without internet.

inputs    the tables and figures of all other rules; what the report pictures itself: samples, scores
outputs   results/report.html
"""


rule report:
    """Show tables, figures, scans, costs and provenance on one page."""
    input:
        comparison="results/comparison.tsv",
        summary="results/summary.tsv",
        strict="results/strict.csv",
        table2="results/table2.csv",
        paper_difference="results/paper_difference.tsv" if published else [],
        ranks="results/ranks.tsv",
        significance="results/significance.tsv",
        subjects=measured(".subjects.tsv"),
        curves=measured(".curves.tsv"),
        costs="results/costs.tsv",
        intake="results/intake.tsv",
        quality=collect("results/quality/{dataset}.tsv", dataset=scans),
        quality_pages=collect("results/quality/{dataset}.html", dataset=scans),
        montages=collect("results/quality/{dataset}.png", dataset=scans),
        manifests=manifests(),
        samples=collect("results/samples/{dataset}/table.tsv", dataset=ordinary),
        arrays=collect("results/samples/{dataset}/{array}.npy", dataset=ordinary, array=["images", "lesion"]),
        digests=collect("results/samples/{dataset}/images.sha256", dataset=ordinary),
        descriptions=collect("results/train/{model}/{seed}/model.json", model=models, seed=seeds),
        score=collect(
            "results/score/{model}/{seed}/{dataset}/map.npy",
            model=models,
            seed=seeds[0],
            dataset=ordinary,
        ),
        scored=collect(
            "results/score/{model}/{seed}/{dataset}/{file}",
            model=models,
            seed=seeds[0],
            dataset=ordinary,
            file=["reconstruction.npy", "table.tsv"],
        ),
        responses=response_figures(),
        maps=map_tables(),
        groups=compared_groups("groups.tsv"),
        compared=[
            path
            for file in ("regions.tsv", "balance.tsv", "notes.tsv", "groups.png")
            for path in compared_groups(file)
        ],
        qualitative="results/figures/qualitative.png",
        learning_curves="results/figures/learning_curves.png",
    output:
        "results/report.html",
    log:
        "results/logs/report.log",
    benchmark:
        "results/benchmarks/report.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(30),
    params:
        settings=report_settings,
    script:
        "../scripts/report.py"
