"""Where trainings run, and what trainings and scores ask of a cluster: lookups of the rules `train` and `score`."""

from snakemake.common import async_run
from snakemake.iocontainers import Wildcards
from snakemake.resources import Resource, Resources

from brainuad.placement import check_gpus, choose_launcher
from brainuad.slurm import check_resources

# What the profile says of the rules, known while the Snakefile is parsed, when the executor is not yet.
settings = workflow.resource_settings
default_resources = settings.default_resources or Resources()
profile = {step: settings.overwrite_resources.get(step, Resources()) for step in ("train", "score")}


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


def scoring_gpus(wildcards):
    """GPUs of a score; the profile may say that scores take none."""
    given = profile["score"].get("gpu").value
    return 0 if config["training"]["device"] == "cpu" else 1 if given is None else given


def only_with_gpu(gpus, given, otherwise):
    """A resource that is as given for a job that needs a GPU, and for others as for all jobs, or not there."""

    def resource(wildcards, input, attempt, threads, rulename, async_run):
        known = dict(input=input, attempt=attempt, threads=threads, rulename=rulename, async_run=async_run)
        return (given if gpus(wildcards) else otherwise).evaluate(wildcards, **known).value

    return Resource(given.name, resource, raw=given.raw)


needs = {"train": training_gpus, "score": scoring_gpus}
try:
    # profiles/slurm gives `train` the resource `slurm_launcher`, by which `training.launcher: auto` means slurm.
    launcher = choose_launcher(config["training"], "slurm_launcher" in profile["train"])
    for step, given in profile.items():
        check_resources(step, {name: value.raw for name, value in {**default_resources, **given}.items()})
    if workflow.is_main_process:  # a job of a cluster is told only what it takes itself
        most = {step: max(gpus(Wildcards(fromdict={"model": name})) for name in models) for step, gpus in needs.items()}
        check_gpus(most, settings.resources.get("gpu").value)
except ValueError as error:
    raise WorkflowError(str(error)) from None

# What the profile says of the GPUs of these rules is not for their jobs without one, such as floors.
for step in profile:
    for name in {"slurm_partition", "constraint", "gpu_model", "gres"} & set(profile[step]):
        profile[step][name] = only_with_gpu(needs[step], profile[step][name], default_resources.get(name))


def forget_recorded_trainings():
    """Let trainings go that Snakemake knows to be done: only what it has not noted is taken over without training anew."""
    for job in workflow.dag.jobs:
        if job.rule.name == "train" and all(Path(name).exists() for name in job.output):
            folder = Path(job.output.model).parent / "submitit"
            if (folder / "job.json").exists() and not async_run(workflow.persistence.incomplete(job)):
                from brainuad.records import forget

                forget(folder)


def refuse_missing_program():
    """Refuse to begin where scans are to be preprocessed on this very machine, which lacks the program for it."""
    planned = {job.rule.name for job in workflow.dag.needrun_jobs()}
    if missing_program and workflow.local_exec and "preprocess" in planned:
        raise WorkflowError(missing_program)


onstart:
    forget_recorded_trainings()
    refuse_missing_program()
