"""Programs that find the brain of a head in place of the template: their command lines, and whether they are here."""

import platform
import re
import shlex
import shutil

__all__ = ["command_line", "missing"]

PLACEHOLDERS = ("input", "output", "mask")
# Version 2 of the package; without test-time augmentation, as its authors advise for a CPU.
HD_BET = "hd-bet -i {input} -o {output} -device cpu --disable_tta --save_bet_mask --no_bet_image"


def command_line(extraction: dict) -> list[str]:
    """The words of the program's command line, with placeholders; none where the template is used.

    Args:
        extraction: the section ``preprocessing.brain_extraction``.

    Raises:
        ValueError: the command is missing, superfluous or malformed.
    """
    key, method, command = "preprocessing.brain_extraction", extraction["method"], extraction["command"]
    if method != "command":
        if command is not None:
            raise ValueError(f"`{key}.command` is given, but `method` is {method}: set it to command.")
        return shlex.split(HD_BET) if method == "hd-bet" else []
    if not command or not command.strip():
        raise ValueError(f"`{key}.method` is command, so `{key}.command` must say what is to be run.")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"`{key}.command` can not be split into words ({error}).") from None
    names = re.findall(r"\{(\w*)\}", command)
    for name in names:
        if name not in PLACEHOLDERS:
            raise ValueError(
                f"`{key}.command` has a {{{name}}}, which is not known; known are {', '.join(PLACEHOLDERS)}."
            )
    if "input" not in names or len(set(names)) < 2:
        raise ValueError(
            f"`{key}.command` needs {{input}}, the file of the head, and {{mask}} or {{output}}, where the program "
            "writes the brain's mask or the brain alone."
        )
    return words


def missing(extraction: dict) -> str:
    """What to install where the program is not on this machine, in a sentence; empty if there is nothing to say."""
    words = command_line(extraction)
    if not words or shutil.which(words[0]):
        return ""
    key = "`preprocessing.brain_extraction`"
    if extraction["method"] == "hd-bet":
        return (
            f"{key} asks for hd-bet, which is not installed on {platform.node()}: `pip install hd-bet` into an "
            "environment of its own, put its program hd-bet on the PATH, and run it once where there is internet, as "
            "it fetches its weights; or set `method` to template."
        )
    return (
        f"{key} asks for {words[0]}, which is no program on {platform.node()}: install it there, give its full path in "
        "`command`, or set `method` to template."
    )
