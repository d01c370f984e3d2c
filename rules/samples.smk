"""
Cut preprocessed scans into samples, and make cohorts with synthetic anomalies.

inputs    results/preprocess/{dataset}/, results/quality/{dataset}.tsv    from preprocess.smk
outputs   results/samples/{dataset}/     images, masks and table of the samples, alike for every dataset
"""


rule samples:
    """Cut the included scans of a dataset into slices or volumes."""
    input:
        quality="results/quality/{dataset}.tsv",
        manifest=dataset_manifest,
    output:
        multiext("results/samples/{dataset}/", "images.npy", "brain.npy", "lesion.npy", "table.tsv", "images.sha256"),
    log:
        "results/logs/samples/{dataset}.log",
    benchmark:
        "results/benchmarks/samples/{dataset}.tsv"
    wildcard_constraints:
        dataset="|".join(scans),
    conda:
        "../envs/imaging.yaml"
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(by_scan(60, MINUTES_TO_READ)),
    params:
        entry=scan_source,
        settings=lookup("samples", within=config),
        seed=lookup("seed", within=config),
    script:
        "../scripts/samples.py"


rule synthetic:
    """Put one synthetic anomaly into each test sample of another dataset."""
    input:
        source_samples,
    output:
        multiext("results/samples/{dataset}/", "images.npy", "brain.npy", "lesion.npy", "table.tsv", "images.sha256"),
    log:
        "results/logs/synthetic/{dataset}.log",
    benchmark:
        "results/benchmarks/synthetic/{dataset}.tsv"
    wildcard_constraints:
        dataset="|".join(synthetic_datasets) or "none",
    conda:
        "../envs/imaging.yaml"
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(15),
    params:
        settings=lookup("datasets/{dataset}/anomalies", within=config),
        reference=source_reference,
    script:
        "../scripts/synthetic.py"
