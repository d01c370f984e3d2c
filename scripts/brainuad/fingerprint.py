"""What decides the outcome of a training, as one digest: work of another digest is never taken over."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from brainuad.sample_set import SampleSet

__all__ = ["fingerprint"]


def fingerprint(
    settings: dict, seed: int, samples: Iterable[Path], files: Iterable[Path | None], details: Iterable[str] = ()
) -> str:
    """SHA-256 of settings, seed, training samples and weights of other models.

    Args:
        settings: the model's entry of the configuration, with the section ``training`` under that name.
        seed: of the training.
        samples: folders of sample sets, whose tables and digests of the images count.
        files: weights that this training builds on or begins with; None for what there is not.
        details: what else decides, known only where the model is at hand.
    """
    digest = hashlib.sha256(json.dumps([settings, seed], sort_keys=True).encode())
    for folder in samples:
        digest.update((Path(folder) / "table.tsv").read_bytes())
        digest.update(SampleSet(folder).digest.encode())
    for file in files:
        if file:
            digest.update(Path(file).read_bytes())
    for detail in details:
        digest.update(detail.encode())
    return digest.hexdigest()
