"""
Train each model on healthy samples, then score every dataset with it.

inputs    results/samples/{dataset}/                  from samples.smk
          resources/lpips/                            the trunk of the perceptual distance, shipped
outputs   results/train/{model}/{seed}/               weights, their description, history, cost
          results/score/{model}/{seed}/{dataset}/     reconstructions, anomaly maps and their components
"""


# With the launcher slurm the rule itself only waits for the job that it submits, so it runs where Snakemake does. What
# of its resources concern Slurm is passed to that job; the profile adds partition, account and kind of GPU. `retries`
# is 0 because a second try would resubmit what a user has cancelled; the launcher itself starts lost jobs anew.
rule train:
    """Fit one model on the healthy training samples. Killed, it goes on from its last checkpoint."""
    input:
        ancient("results/intake.tsv"),  # before any training: nobody is on two sides
        samples=training_samples,
        upstream=upstream_model,
        weights=initial_weights,
        trunk=training_trunk,
    output:
        model="results/train/{model}/{seed}/model.safetensors",
        description="results/train/{model}/{seed}/model.json",
        history="results/train/{model}/{seed}/history.tsv",
        cost="results/train/{model}/{seed}/cost.json",
    log:
        "results/logs/train/{model}/{seed}.log",
    benchmark:
        "results/benchmarks/train/{model}/{seed}.tsv"
    retries: 0
    localrule: launcher == "slurm"
    conda:
        "../envs/learning.yaml"
    threads: 1 if launcher == "slurm" else 8
    resources:
        launcher=launcher,
        gpu=training_gpus,
        tasks_per_node=training_tasks,
        nodes=training_nodes,
        cpus_per_task=8,
        mem_mb=scaled(16000),
        runtime=scaled(1440),
    params:
        settings=training_settings,
    script:
        "../scripts/train.py"


rule score:
    """Reconstruct the samples of a dataset and map their anomalies."""
    input:
        ancient("results/intake.tsv"),  # a dataset that comes after the trainings may hold what they learned from
        model="results/train/{model}/{seed}/model.safetensors",
        description="results/train/{model}/{seed}/model.json",
        samples=multiext("results/samples/{dataset}/", "images.npy", "brain.npy", "lesion.npy", "table.tsv"),
        trunk=ancient(perceptual_trunk),
    output:
        multiext(
            "results/score/{model}/{seed}/{dataset}/",
            "map.npy",
            "reconstruction.npy",
            "residual.npy",
            "perceptual.npy",
            "table.tsv",
            "cost.json",
        ),
    log:
        "results/logs/score/{model}/{seed}/{dataset}.log",
    benchmark:
        "results/benchmarks/score/{model}/{seed}/{dataset}.tsv"
    conda:
        "../envs/learning.yaml"
    threads: 1
    resources:
        gpu=scoring_gpus,
        mem_mb=scaled(8000),
        runtime=scaled(60),
    params:
        settings=lookup("scoring", within=config),
        device=lookup("training/device", within=config),
    script:
        "../scripts/score.py"
