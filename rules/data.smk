"""
Make the raw scans that are not on disk already; fetch, where Snakemake itself runs, what is not shipped.

inputs    none: what a simulated dataset is made from comes with nilearn
outputs   results/phantom/{dataset}/    per scan: a simulated raw T1 volume and its known truth; per job: its scans
          results/trunk/{trunk}.safetensors    weights for the perceptual distance, if `scoring.trunk` asks for them
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
        mem_mb=scaled(2000),
        runtime=scaled(by_scan(60, MINUTES)),
    params:
        scans=phantom_rows,
        site=lookup("datasets/{dataset}/phantom/site", within=config),
        seed=lookup("datasets/{dataset}/phantom/seed", within=config),
        patients=lookup("datasets/{dataset}/phantom/patients", within=config),
    script:
        "../scripts/phantom.py"


rule trunk:
    """Fetch a trunk of the perceptual distance that is not shipped; the only rule that needs the internet."""
    output:
        "results/trunk/{trunk}.safetensors",
    log:
        "results/logs/trunk/{trunk}.log",
    benchmark:
        "results/benchmarks/trunk/{trunk}.tsv"
    wildcard_constraints:
        trunk="squeeze|vgg",
    localrule: True
    conda:
        "../envs/learning.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(15),
    script:
        "../scripts/trunk.py"
