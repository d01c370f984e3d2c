"""Where trainings run, and on how much: lookups of the rule `train`."""

from snakemake.common import async_run

from brainuad.configuration import choose_launcher

try:
    # While the Snakefile is parsed Snakemake does not know its executor yet, but what its profile sets: profiles/slurm
    # gives `train` the resource `slurm_launcher`, by which `training.launcher: auto` means slurm.
    profile = workflow.resource_settings.overwrite_resources.get("train", {})
    launcher = choose_launcher(config["training"], "slurm_launcher" in profile)
except ValueError as error:
    raise WorkflowError(str(error)) from None


def training_tasks(wildcards):
    """Processes of a training on each node, one a GPU; a floor is fitted by one."""
    return 1 if is_floor(models[wildcards.model]) else config["training"]["gpus"]


def training_nodes(wildcards):
    """Nodes of a training."""
    return 1 if is_floor(models[wildcards.model]) else config["training"]["nodes"]


def training_gpus(wildcards):
    """GPUs of a training in all, so that `--resources gpu=N` limits them. A floor needs none, yet is a job: it reads all
    training samples, which is no work for the machine that people log in to."""
    without = is_floor(models[wildcards.model]) or config["training"]["device"] == "cpu"
    return 0 if without else training_tasks(wildcards) * training_nodes(wildcards)


def forget_recorded_trainings():
    """Let trainings go that Snakemake knows to be done: only what it has not noted is taken over without training anew."""
    for job in workflow.dag.jobs:
        if job.rule.name == "train" and all(Path(name).exists() for name in job.output):
            folder = Path(job.output.model).parent / "submitit"
            if (folder / "job.json").exists() and not async_run(workflow.persistence.incomplete(job)):
                from brainuad.launching import forget

                forget(folder)


onstart:
    forget_recorded_trainings()
