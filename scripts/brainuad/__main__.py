"""The command ``brainuad``: ``brainuad score`` puts scans of no study through a trained model.

From a clone: ``PYTHONPATH=scripts python -m brainuad score …``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status is returned."""
    parser = argparse.ArgumentParser(prog="brainuad", description="Anomaly detection in brain MRI.")
    commands = parser.add_subparsers(dest="command", required=True)
    score = commands.add_parser(
        "score",
        help="put scans through a trained model",
        description="Put T1-weighted scans through a trained model: anomaly maps, reconstructions, z-scores as NIfTI "
        "in template space and on the grid of each scan, pictures, and scores.tsv. Nothing is trained, no study is "
        "needed, nothing is written outside --out. The status is 1 if a scan failed, which stops no other.",
    )
    score.add_argument("scans", nargs="+", type=Path, metavar="SCAN", help="a NIfTI file, or a folder with some")
    score.add_argument(
        "--model", required=True, type=Path, help="folder of a trained model, such as results/train/vqvae/1"
    )
    score.add_argument("--out", required=True, type=Path, help="folder for what comes out")
    score.add_argument(
        "--calibration", type=Path, help="folder of its calibration (default: results/calibration/… of the same study)"
    )
    score.add_argument("--trunk", type=Path, help="weights of the perceptual distance's trunk, if not the shipped ones")
    score.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one"
    )
    score.add_argument(
        "--include", action="store_true", help="take scans in spite of doubts that leave them out of a study"
    )
    stripped = score.add_mutually_exclusive_group()
    stripped.add_argument(
        "--skull-stripped",
        action="store_true",
        default=None,
        help="the scans hold the brain alone (default: recognised)",
    )
    stripped.add_argument("--head", dest="skull_stripped", action="store_false", help="the scans show the whole head")
    given = parser.parse_args(arguments)
    from brainuad.own_scan import run  # takes seconds, which --help should not

    return run(given)


if __name__ == "__main__":
    sys.exit(main())
