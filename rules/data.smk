"""
Make the raw scans that are not on disk already.

inputs    none: what a simulated dataset is made from comes with nilearn
outputs   results/phantom/{dataset}/    per scan: a simulated raw T1 volume and its known truth; per job: a table of its scans
"""


rule phantom:
    """Simulate the raw scans of one job."""
    output:
        "results/phantom/{dataset}/chunk-{chunk}.tsv",
    log:
        "results/logs/phantom/{dataset}/{chunk}.log",
    benchmark:
        "results/benchmarks/phantom/{dataset}/{chunk}.tsv"
    conda:
        "../envs/imaging.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        scans=phantom_rows,
        site=lookup("datasets/{dataset}/phantom/site", within=config),
        seed=lookup("datasets/{dataset}/phantom/seed", within=config),
    script:
        "../scripts/phantom.py"
