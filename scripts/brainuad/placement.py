"""Where trainings run by the configuration and the profile, and whether there are GPUs enough for them."""

from brainuad.configuration import ConfigurationError

__all__ = ["check_gpus", "choose_launcher"]


def choose_launcher(training: dict, slurm: bool) -> str:
    """Where trainings run: what ``launcher`` says or, if that is auto, the least that does.

    Args:
        training: the section of the configuration.
        slurm: whether the profile says that auto means slurm.

    Returns:
        ``inline``, ``local`` or ``slurm``.

    Raises:
        ConfigurationError: the launcher cannot use so many GPUs or nodes.
    """
    chosen, gpus, nodes = training["launcher"], training["gpus"], training["nodes"]
    if chosen == "auto":
        chosen = "slurm" if slurm else "local" if gpus > 1 else "inline"
    if nodes > 1 and chosen != "slurm":
        raise ConfigurationError(
            f"`training.nodes` is {nodes}, but trainings run on this machine (launcher {chosen}): set "
            "`training.launcher` to slurm, use the profile slurm, or set `training.nodes` to 1."
        )
    if gpus > 1 and chosen == "inline":
        raise ConfigurationError(
            f"`training.gpus` is {gpus}, but the launcher inline has one process: set `training.launcher` to local "
            "or auto."
        )
    return chosen


def check_gpus(needed: dict[str, int], allowed: int | None) -> None:
    """Refuse to run with fewer GPUs than one job takes: Snakemake would hand out fewer without a word.

    Args:
        needed: GPUs of a job of ``train`` and of ``score``.
        allowed: for all jobs at a time, by ``--resources gpu=N``; None for no limit.

    Raises:
        ConfigurationError: a job would get fewer than it needs.
    """
    for rule, count in needed.items():
        if allowed is not None and allowed < count:
            raise ConfigurationError(
                f"`--resources gpu={allowed}` allows fewer GPUs than a job of rule {rule} needs ({count}): allow more, "
                "lower `training.gpus` or `training.nodes`, or set `training.device` to cpu."
            )
