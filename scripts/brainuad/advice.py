"""What messages say to the user of a study → what they have to say where there is none."""

import traceback

from brainuad.faults import NotInstalled

__all__ = ["failure", "reworded"]

OF_STUDIES = {  # what a message says to the user of a study, and what it has to say here; the longer one first
    "`include` in config/exclusions.tsv": "the option --include",
    "correct its path in the manifest": "correct its path",
    "`skull_stripped` says": "the option --skull-stripped says",
    "skull_stripped is true": "--skull-stripped is given",
    "skull_stripped is false": "--head is given",
    "set skull_stripped to false or null": "give --head or neither",
    "set skull_stripped to true or null": "give --skull-stripped or neither",
    "set skull_stripped to false": "give --head",
    "name another program in preprocessing.brain_extraction, or ": "",
    "set skull_stripped to true": "give --skull-stripped",
    "the program that `preprocessing.brain_extraction` names": "the program that finds the brain",
    "`preprocessing.brain_extraction` asks for": "the model asks for",
    ", give its full path in `command`, or set `method` to template": ", on the PATH",
    "; or set `method` to template": "",
    "see the log; snakemake --forcerun preprocess tries it again.": "see what is printed above.",
    "; snakemake --forcerun preprocess tries it as it is": "",
    "the log says where. Look": "look",
    "the log says where": "what was printed says where",
    "the log has": "what was printed has",
}


def failure(error: Exception) -> tuple[str, str]:
    """Code and reason of a scan that failed by an exception; what nobody foresaw is printed whole."""
    if isinstance(error, NotInstalled):
        return "not_installed", reworded(str(error))
    if isinstance(error, MemoryError):
        return "memory", "there was not enough memory for it: free some, or use a larger machine, and score it again"
    if isinstance(error, OSError):
        return (
            "disk",
            f"reading or writing failed ({error.strerror or error}): look at disk and permissions, score it again",
        )
    if isinstance(error, ValueError):
        return "failed", reworded(str(error))
    traceback.print_exc()
    return "failed", f"{type(error).__name__}: {error}"


def reworded(reason: str) -> str:
    """A reason without advice that holds in a study only."""
    for said, here in OF_STUDIES.items():
        reason = reason.replace(said, here)
    return reason
