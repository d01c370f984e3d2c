"""
Make the raw scans that are not on disk already.

inputs    none: what a simulated dataset is made from comes with nilearn
outputs   results/phantom/{dataset}/{scan}/    a simulated raw T1 volume and its known truth
"""


rule phantom:
    """Simulate the raw scan of one subject."""
    output:
        t1w="results/phantom/{dataset}/{scan}/t1w.nii.gz",
        truth="results/phantom/{dataset}/{scan}/truth.npz",
    log:
        "results/logs/phantom/{dataset}/{scan}.log",
    benchmark:
        "results/benchmarks/phantom/{dataset}/{scan}.tsv"
    conda:
        "../envs/imaging.yaml"
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(10),
    params:
        site=lookup("datasets/{dataset}/phantom/site", within=config),
        seed=lookup("datasets/{dataset}/phantom/seed", within=config),
    script:
        "../scripts/phantom.py"
