"""
Put anomaly maps back on the scans they come from, as images.

inputs    results/score/{model}/{seed}/{dataset}/                 from models.smk
          results/samples/, results/preprocess/, results/quality/
outputs   results/calibration/{model}/{seed}/                     what is usual in each voxel of healthy subjects; with the
                                                                  weights all that `python -m brainuad score` needs
          results/maps/{dataset}/{model}/seed-{seed}/             a BIDS derivative: maps of each scan in template space and
                                                                  on its own grid, pictures, table.tsv
"""


rule calibration:
    """Learn from healthy validation subjects what anomaly map is usual in each voxel."""
    input:
        model="results/train/{model}/{seed}/model.safetensors",
        description="results/train/{model}/{seed}/model.json",
        score=collect("results/score/{{model}}/{{seed}}/{dataset}/map.npy", dataset=training_datasets),
        scored=collect("results/score/{{model}}/{{seed}}/{dataset}/table.tsv", dataset=training_datasets),
        masks=collect("results/samples/{dataset}/{mask}.npy", dataset=training_datasets, mask=["brain", "lesion"]),
        sampled=collect("results/samples/{dataset}/table.tsv", dataset=training_datasets),
        quality=collect("results/quality/{dataset}.tsv", dataset=training_datasets),
    output:
        multiext("results/calibration/{model}/{seed}/", "mean.nii.gz", "std.nii.gz", "count.nii.gz", "calibration.json"),
    log:
        "results/logs/calibration/{model}/{seed}.log",
    benchmark:
        "results/benchmarks/calibration/{model}/{seed}.tsv"
    conda:
        "../envs/imaging.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(calibration_minutes),
    params:
        settings=calibration_settings,
    script:
        "../scripts/calibration.py"


rule maps:
    """Write the maps of a dataset's scans as images, in template space and on each scan's own grid."""
    input:
        description="results/train/{model}/{seed}/model.json",
        calibration=multiext(
            "results/calibration/{model}/{seed}/", "calibration.json", "mean.nii.gz", "std.nii.gz", "count.nii.gz"
        ),
        score=multiext("results/score/{model}/{seed}/{dataset}/", "map.npy", "reconstruction.npy", "table.tsv"),
        samples=multiext("results/samples/{dataset}/", "images.npy", "brain.npy", "table.tsv"),
    output:
        table="results/maps/{dataset}/{model}/seed-{seed}/table.tsv",
        description="results/maps/{dataset}/{model}/seed-{seed}/dataset_description.json",
    log:
        "results/logs/maps/{dataset}/{model}/{seed}.log",
    benchmark:
        "results/benchmarks/maps/{dataset}/{model}/{seed}.tsv"
    wildcard_constraints:
        dataset="|".join(ordinary),
    conda:
        "../envs/imaging.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(by_scan(60, MINUTES_TO_MAP)),
    params:
        settings=map_settings,
        sources=native_scans,
    script:
        "../scripts/maps.py"
