"""
Hold the anomaly maps of each model against the masks of each dataset.

inputs    results/score/{model}/{seed}/{dataset}/          from models.smk
outputs   results/thresholds/{model}/{seed}.tsv            where the scores of healthy validation pixels end
          results/metrics/{model}/{seed}/{dataset}.tsv     long format: one row a number; beside it its subjects, curves
                                                           and the values over the draws of the bootstrap
"""


rule thresholds:
    """Set the thresholds of one model on healthy validation subjects of the training datasets."""
    input:
        score=collect("results/score/{{model}}/{{seed}}/{dataset}/map.npy", dataset=training_datasets),
        scored=collect("results/score/{{model}}/{{seed}}/{dataset}/table.tsv", dataset=training_datasets),
        masks=collect("results/samples/{dataset}/{mask}.npy", dataset=training_datasets, mask=["brain", "lesion"]),
        sampled=collect("results/samples/{dataset}/table.tsv", dataset=training_datasets),
    output:
        "results/thresholds/{model}/{seed}.tsv",
    log:
        "results/logs/thresholds/{model}/{seed}.log",
    benchmark:
        "results/benchmarks/thresholds/{model}/{seed}.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(15),
    params:
        references=healthy_groups,
    script:
        "../scripts/thresholds.py"


rule metrics:
    """Measure one model on one dataset."""
    input:
        score=multiext(
            "results/score/{model}/{seed}/{dataset}/", "map.npy", "reconstruction.npy", "perceptual.npy", "table.tsv"
        ),
        samples=multiext("results/samples/{dataset}/", "images.npy", "brain.npy", "lesion.npy", "table.tsv"),
        thresholds="results/thresholds/{model}/{seed}.tsv",
        healthy_score=healthy_score,
        healthy_samples=healthy_samples,
    output:
        table="results/metrics/{model}/{seed}/{dataset}.tsv",
        subjects="results/metrics/{model}/{seed}/{dataset}.subjects.tsv",
        curves="results/metrics/{model}/{seed}/{dataset}.curves.tsv",
        replicates="results/metrics/{model}/{seed}/{dataset}.replicates.npz",
    log:
        "results/logs/metrics/{model}/{seed}/{dataset}.log",
    benchmark:
        "results/benchmarks/metrics/{model}/{seed}/{dataset}.tsv"
    wildcard_constraints:
        dataset="|".join(ordinary),
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(by_scan(60, MINUTES_TO_MEASURE if len(config["samples"]["size"]) == 3 else MINUTES_TO_READ)),
    params:
        settings={"resamples": config["comparison"]["resamples"], "spacing": config["samples"]["spacing"]},
    script:
        "../scripts/metrics.py"
