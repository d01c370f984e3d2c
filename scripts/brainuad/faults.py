"""Why a scan is left out: every code that a table of the results may hold. ``docs/left_out.md`` is made of it.

Codes are stable: scripts of users count them. A sentence beside each code names the file and says what to do.
"""

import sys
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["FAULTS", "BadScan", "Fault", "NotInstalled", "counted", "documentation", "public"]


class BadScan(ValueError):
    """A scan that cannot be used: the code of its fault, and a sentence for the user."""

    def __init__(self, code: str, message: object):
        super().__init__(str(message))
        self.code = code

    def __reduce__(self):
        return BadScan, (self.code, str(self))  # it comes from another process


class NotInstalled(ValueError):
    """A program that the study asks for is not there: no fault of a scan, so that the job fails."""


class Fault(NamedTuple):
    """One reason to leave a scan out.

    Attributes:
        code: as in the column ``code`` of the tables.
        stage: where it is found, a key of ``STAGES``.
        meaning: what is wrong; goes on after "left out because" or stands alone.
        judged: whether it is a judgement, which ``include`` in ``config/exclusions.tsv`` overrides; what is left to do
            with the scan then follows after it.
    """

    code: str
    stage: str
    meaning: str
    judged: str = ""


STAGES = {
    "search": "Found in a folder, and not taken (datasets with `bids` or `pattern`)",
    "reading": "Not fit to be preprocessed: the file",
    "preprocessing": "Not fit to be used: what came out of preprocessing",
    "decision": "Left out by a person",
}

FAULTS = {
    fault.code: fault
    for fault in (
        Fault("further", "search", "further files of a session that has one"),
        Fault("not_asked_for", "search", "sessions, runs or entities that are not asked for"),
        Fault("misnamed", "search", "names that do not say what their folders say"),
        Fault("not_fetched", "search", "links to files that were not fetched"),
        Fault("absent", "search", "subjects or sessions without such a file"),
        Fault("missing", "reading", "the file does not exist"),
        Fault("unreadable", "reading", "the file is empty, truncated, wrongly compressed or otherwise damaged"),
        Fault("format", "reading", "not a NIfTI file of real numbers (ANALYZE, MGH, colours, complex numbers)"),
        Fault(
            "dimensions",
            "reading",
            "not one 3-D volume: flat, a series (one of a single volume is taken), empty or beyond 512³ voxels",
        ),
        Fault("affine", "reading", "the affine is singular or not finite"),
        Fault(
            "no_affine",
            "reading",
            "neither sform nor qform is set, so that left and right are unknown",
            judged="the voxel order is taken for left, anterior, superior, as ANALYZE has it",
        ),
        Fault(
            "sform_qform",
            "reading",
            "sform and qform contradict each other, so that left and right are in doubt",
            judged="the sform is taken",
        ),
        Fault("voxel_size", "reading", "voxels that are too small or too large for a T1-weighted scan of a head"),
        Fault("field_of_view", "reading", "a field of view that is too small or too large for a head"),
        Fault("non_finite", "reading", "voxels that are NaN, infinite or beyond single precision"),
        Fault("constant", "reading", "all voxels are equal"),
        Fault("lesion", "reading", "the lesion mask is missing, damaged or not finite"),
        Fault("lesion_grid", "reading", "the lesion mask lies on another grid than its scan"),
        Fault(
            "skull_stripped",
            "preprocessing",
            "`skull_stripped` says that the scan is a brain alone, and it shows a head; or the other way round",
            judged="what `skull_stripped` says is taken",
        ),
        Fault(
            "brain_extraction",
            "preprocessing",
            "the program that `preprocessing.brain_extraction` names failed, or left no image on the grid of the scan",
        ),
        Fault("brain_mask", "preprocessing", "no brain was found, or one of an impossible volume"),
        Fault("registration", "preprocessing", "the registered brain lies outside the template"),
        Fault("contrast", "preprocessing", "all intensities inside the brain are equal"),
        Fault("failed", "preprocessing", "a step failed in a way that nobody foresaw; the log has the traceback"),
        Fault("crashed", "preprocessing", "the process of the scan crashed; the log says where"),
        Fault(
            "correlation",
            "preprocessing",
            "too little correlation with the template: wrong contrast or orientation",
            judged="it is used as it is",
        ),
        Fault(
            "overlap",
            "preprocessing",
            "too little overlap with the template's brain: wrong mask or registration",
            judged="it is used as it is",
        ),
        Fault("slices", "preprocessing", "no brain at the height of a slice that `samples.positions` asks for"),
        Fault(
            "duplicate",
            "preprocessing",
            "the voxels are those of a scan before it in the same dataset",
            judged="it is used beside the other, if both fall into the same split",
        ),
        Fault("excluded", "decision", "`exclude` in `config/exclusions.tsv`"),
    )
}


def counted(codes: Sequence[str]) -> dict[str, int]:
    """How often each code comes, in the order of the catalogue."""
    codes = list(codes)
    return {code: codes.count(code) for code in FAULTS if code in codes}


def public(code: str, reason: str) -> str:
    """What may be shown to others about a scan that is left out: a sentence that names its file may not."""
    fault = FAULTS.get(code)
    if fault is None:
        return "left out"
    return reason if fault.stage == "decision" or code in ("correlation", "overlap", "duplicate") else fault.meaning


def documentation() -> str:
    """The page of all codes in Markdown."""
    lines = [
        "# Why scans are left out",
        "",
        "Made from the catalogue by `python -m brainuad.faults`. A bad scan never stops the others: it stands in "
        "`results/quality/<dataset>.tsv`",
        "with the status `excluded`, one of these codes, and a sentence that names the file and says what to do. "
        "`results/intake.tsv` counts them.",
        "",
        "Where the last column says something, the code is a judgement: a row with `include` in "
        "`config/exclusions.tsv` takes the scan all the same.",
        "",
    ]
    for stage, title in STAGES.items():
        lines += [f"## {title}", "", "| code | what is wrong | with `include` |", "| --- | --- | --- |"]
        faults = [fault for fault in FAULTS.values() if fault.stage == stage]
        lines += [f"| `{fault.code}` | {fault.meaning} | {fault.judged} |" for fault in faults]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(documentation())
