"""Scans that belong to no study and a trained model → maps as images, pictures, and a table with warnings.

Needs the model's folder (weights, ``model.json``), and its calibration for z-scores and for the range that the quality
measures of the training scans have. Each scan goes the way that the study's went: the settings come with the model.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

from brainuad.advice import failure, reworded
from brainuad.calibration import Calibration, smooth
from brainuad.derivatives import clear_maps, describe, origin_of, scan_maps, write_maps
from brainuad.faults import public
from brainuad.grids import Frame
from brainuad.maps import draw, native_grid
from brainuad.provenance import commit, digest
from brainuad.scan_files import find, names_of

__all__ = ["COLUMNS", "OwnScans", "outside", "score_scans"]

TRUNK = Path(__file__).parents[2] / "resources/lpips/alexnet_features.safetensors"
# The configuration's defaults, for a model without a calibration.
SCORING = {"batch_size": 16, "smoothing": 2.0, "trunk": "alex", "map": "product"}
UNITS = {"brain_volume_ml": " ml"}
CHECKS = {"correlation": "min_correlation", "overlap": "min_overlap"}
COLUMNS = (
    *("scan", "status", "code", "reason", "warnings", "correlation", "overlap", "brain_volume_ml", "bias_range"),
    *("anomaly_mean", "anomaly_max", "z_mean", "z_max", "volume_above_3_ml", "x", "y", "z", "maps", "sha256"),
)
EARLIER = {"brain_extraction": {"method": "template", "command": None}}  # of models from before there was a choice
ABNORMAL = 3.0  # standard deviations


def score_scans(
    scans: Sequence[Path],
    model: Path,
    out: Path,
    calibration: Path | None = None,
    trunk: Path | None = None,
    device: str = "auto",
    skull_stripped: bool | None = None,
    include: bool = False,
) -> int:
    """Score scans one after the other and write what comes out; nothing is written outside `out`.

    The table is written anew after each scan: whatever ends the command, what was done until then is listed. Rows of
    earlier calls stay, and maps of another file by the same name are kept: the scan that would replace them fails.

    Args:
        scans: files, or folders that are searched for them.
        model: folder of a trained model, such as ``results/train/vqvae/1``.
        out: folder for a BIDS derivative with pictures, and ``scores.tsv`` with a row a scan.
        calibration: its folder; by default the one of the study that the model is of, if it is there.
        trunk: weights of the perceptual distance's trunk, if not the shipped ones.
        device: ``auto``, ``cpu`` or ``cuda``.
        skull_stripped: whether the scans hold the brain alone; None recognises it.
        include: whether to take scans in spite of doubts that leave them out of a study.

    Returns:
        How many scans failed.

    Raises:
        ValueError: there is no scan, or model and calibration do not fit.
    """
    out = Path(out)
    named = names_of(find(scans, out))
    own = OwnScans(Path(model), calibration, trunk, device)
    begin(out)
    before, rows, failed = tempfile.tempdir, listed(out / "scores.tsv"), 0
    try:
        for number, (name, path) in enumerate(named.items(), start=1):
            earlier = rows.get(name, {})
            if said := refusal(path, earlier, name, out):
                row = earlier
            else:
                work = Path(tempfile.mkdtemp(prefix=".work-", dir=out))
                tempfile.tempdir = str(work)
                try:
                    row, said = own.attempt(name, path, out, work, skull_stripped, include)
                finally:
                    shutil.rmtree(work, ignore_errors=True)
                row |= {"sha256": identity(path)}
            failed += not said.startswith("scored")
            print(f"[{number}/{len(named)}] {path} → {name}: {said}", flush=True)
            rows[name] = row
            table = pd.DataFrame(rows.values()).reindex(columns=list(COLUMNS))
            table.to_csv(new := out / ".scores.tsv", sep="\t", index=False, float_format="%.6g")
            new.replace(out / "scores.tsv")  # whole or not at all: it is what keeps maps from being replaced
    finally:
        tempfile.tempdir = before
    print(f"{len(named) - failed} of {len(named)} scans scored; what came out is in {out}")
    return failed


def listed(table: Path) -> dict[str, dict]:
    """The rows of a table of earlier calls by scan; none where there is no such table.

    Raises:
        ValueError: the file is no table of scores.
    """
    if not table.exists():
        return {}
    try:
        rows = pd.read_csv(table, sep="\t", dtype={"sha256": str}).to_dict("records")
        return {row["scan"]: row for row in rows}
    except (ValueError, KeyError) as error:
        raise ValueError(f"{table} is no table of scores: choose another --out, or rename it.") from error


def identity(path: Path) -> str:
    """SHA-256 of the file of a scan, empty if it cannot be read: it tells scans apart, and names nobody."""
    try:
        return digest(path)
    except OSError:
        return ""


def refusal(path: Path, earlier: dict, name: str, out: Path) -> str:
    """What to say of a scan whose maps would replace those of another file; nothing if there are none, or its own."""
    known = earlier.get("sha256")
    if earlier.get("status") != "scored" or not isinstance(known, str) or known == identity(path):
        return ""
    if not identity(path):
        return f"failed (unreadable): {path} is not there or cannot be read; what {out} has as {name} is kept."
    return (
        f"failed (taken): {out} has maps of another file as {name}, and keeps them: choose another --out, or rename "
        f"{path.name}."
    )


def begin(out: Path) -> None:
    """Make the folder for what comes out; git takes no notice of one that was not there, as it holds people's scans."""
    new = not out.exists() or not any(out.iterdir())
    out.mkdir(parents=True, exist_ok=True)
    if new:
        (out / ".gitignore").write_text("*\n", encoding="utf-8")


class OwnScans:
    """A trained model with all that another scan needs to go the way of those it was trained on."""

    def __init__(self, model: Path, calibration: Path | None = None, trunk: Path | None = None, device: str = "auto"):
        """Read model and calibration.

        Raises:
            ValueError: a file is missing, or the calibration is of other weights.
        """
        from brainuad.models import load
        from brainuad.perceptual import PerceptualDistance
        from brainuad.scoring import device_of

        folder = model.parent if model.suffix == ".safetensors" else model
        weights = model if model.suffix == ".safetensors" else model / "model.safetensors"
        if not weights.is_file():
            raise ValueError(f"{folder} has no {weights.name}: name the folder of a trained model, results/train/….")
        self.calibration = calibration_of(folder, weights, calibration)
        if self.calibration is None:
            print(
                "No calibration of this model is at hand: no z-scores, no comparison with the training scans, "
                "and maps by the default `scoring`. "
                "`snakemake results/calibration/<model>/<seed>/calibration.json` makes it; --calibration names it."
            )
        self.description = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
        known = self.description["metadata"]
        if not known.get("preprocessing") or not known.get("samples"):
            raise ValueError(
                f"{weights.with_suffix('.json')} does not say how its images were made (`preprocessing`, `samples`): "
                "name a model that a study trained."
            )
        self.preprocessing, self.samples = {**EARLIER, **known["preprocessing"]}, known["samples"]
        self.scoring = self.calibration.record["scoring"] if self.calibration else SCORING
        self.name = self.calibration.record["model"] if self.calibration else self.description["class"]
        trunk = Path(trunk or TRUNK)
        if not trunk.is_file() or (trunk == TRUNK and self.scoring["trunk"] != "alex"):
            raise ValueError(
                f"The weights of the perceptual distance's trunk {self.scoring['trunk']!r} are not at hand: name them "
                "by --trunk (resources/lpips/ of the repository, or results/trunk/ of the study)."
            )
        self.device = device_of(device)
        self.detector = load(weights).eval().to(self.device)
        settings = (self.scoring["smoothing"], self.scoring["trunk"])
        self.perceptual = PerceptualDistance(trunk, *settings).to(self.device)
        # Whether the scans are simulated is not known, nor, without a calibration, whether those of the training were.
        simulated = self.calibration.record["simulated"] if self.calibration else None
        code = commit(Path(__file__))
        self.origin = {
            **origin_of(self.description, self.name, self.calibration, code, None),
            "TrainedOnSimulatedScans": simulated,
        }

    def attempt(
        self, name: str, path: Path, out: Path, work: Path, skull_stripped: bool | None, include: bool = False
    ) -> tuple[dict, str]:
        """Score one scan; what goes wrong with it does not raise, and leaves no maps, nor those of an earlier run.

        Returns:
            Its row of the table, and a line for the terminal.
        """
        from brainuad.preprocessing import attempt

        clear_maps(out, name)
        scan = {"scan": name, "t1w": str(path), "skull_stripped": skull_stripped, "include": include}
        try:
            record = attempt(scan, work / "scan", self.preprocessing)
            if record["status"] != "included":
                code, reason = record["code"], reworded(record["reason"])
                return failed_row(name, code, reworded(public(code, record["reason"]))), f"failed ({code}): {reason}"
            row = {**record, **self.score(name, path, work / "scan", out)}
        except Exception as error:
            # Of memory or disk, too: other scans may be smaller, and those done are to be listed.
            clear_maps(out, name)
            code, reason = failure(error)
            return failed_row(name, code, reason.replace(str(path), "the scan")), f"failed ({code}): {reason}"
        warnings = self.warnings(record)
        row |= {"scan": name, "status": "scored", "warnings": "; ".join(warnings)}
        lines = ["scored", *(f"    warning: {warning}" for warning in warnings)]
        return row, "\n".join(lines)

    def score(self, name: str, path: Path, folder: Path, out: Path) -> dict:
        """Cut, score and write one preprocessed scan; what the table says of its maps is returned."""
        image = nibabel.load(folder / "t1w.nii.gz")
        frame = Frame(self.samples, image.shape, image.affine)
        positions, images, brains = self.cut(folder, frame)
        anomaly, reconstruction = self.reconstruct(images)
        brain = frame.stack(positions, brains).astype(np.float32)
        inside = frame.place(brain) > 0.5
        width = self.calibration.record["maps"]["smoothing"] if self.calibration else 0.0
        values = frame.stack(positions, anomaly)
        found = scan_maps(
            frame,
            frame.place(values),
            inside,
            frame.place(frame.stack(positions, reconstruction)),
            frame.place(smooth(values, brain, width, frame)),
            self.calibration,
        )
        native, _ = native_grid(folder, str(path))
        describe(out, f"Anomaly maps by {self.name}", frame, self.origin)
        anatomy = np.asarray(image.dataobj)
        written = write_maps(out, name, found, frame, self.origin, native, anatomy)
        draw(out, name, found, anatomy, frame, f"{name}, {self.name}")
        return {**findings(found, frame), "maps": str(Path(written["anomaly"]).parent)}

    def cut(self, folder: Path, frame: Frame) -> tuple[list[float], np.ndarray, np.ndarray]:
        """Positions, images and brain masks of the samples of a preprocessed scan.

        Raises:
            ValueError: a slice holds no brain.
        """
        from brainuad.samples import cut

        positions = self.samples["positions"] if not frame.volumes else [self.samples["centre"][2]]
        known = [(position, image, brain) for position, (image, brain, _) in cut(folder, self.samples, positions)]
        for position, _, brain in known:
            if not brain.any():
                raise ValueError(f"there is no brain at z = {position} mm of template space: look at the registration")
        images, brains = (np.stack([row[index] for row in known])[:, None] for index in (1, 2))
        return [row[0] for row in known], images.astype(np.float32), brains

    def reconstruct(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Anomaly maps and reconstructions of images (n, 1, *size).

        Raises:
            ValueError: one is not finite.
        """
        import torch

        from brainuad.scoring import components

        parts = []
        for start in range(0, len(images), self.scoring["batch_size"]):
            x = torch.from_numpy(images[start : start + self.scoring["batch_size"]]).to(self.device)
            parts.append(components(self.detector, self.perceptual, x, self.scoring.get("map", "product")))
        arrays = [np.concatenate([part[name].cpu().numpy() for part in parts]) for name in ("map", "reconstruction")]
        if not all(np.isfinite(array).all() for array in arrays):
            raise ValueError("the map of this scan is not finite: train the model again")
        return arrays[0], arrays[1]

    def warnings(self, record: dict) -> list[str]:
        """What is odd about a scan's quality measures: outside the training scans' range, or a study's limits."""
        if self.calibration is None:
            return []
        known = self.calibration.record
        said = [outside(name, float(record[name]), span) for name, span in known["ranges"].items()]
        for name, key in CHECKS.items():
            if record[name] < known["quality"][key]:
                said.append(f"{name} {record[name]:.3g} is below {known['quality'][key]:g}: a study would leave it out")
        return [text for text in said if text]


def failed_row(name: str, code: str, reason: str) -> dict:
    """The table's row of a scan without maps."""
    return {"scan": name, "status": "failed", "code": code, "reason": reason}


def outside(name: str, value: float, span: dict) -> str:
    """A sentence on a measure outside the range of the training scans, which measure and by how much; or nothing."""
    unit, low, high = UNITS.get(name, ""), span["low"], span["high"]
    if low <= value <= high:
        return ""
    side, by = ("below", low - value) if value < low else ("above", value - high)
    spread = f" ({by / (high - low):.2g} times its width)" if high > low else ""
    return (
        f"{name} {value:.4g}{unit} is {side} the range of the {span['scans']} training scans, {low:.4g} to {high:.4g}"
        f"{unit}, by {by:.3g}{unit}{spread}"
    )


def findings(found, frame: Frame) -> dict:
    """Numbers of a scan's maps inside the brain that was cut, and where they are highest, in mm of template space."""
    anomaly, brain = found.images["anomaly"], found.covered["anomaly"]
    numbers = {"anomaly_mean": float(anomaly[brain].mean()), "anomaly_max": float(anomaly[brain].max())}
    highest = anomaly
    if "zscore" in found.images and found.covered["zscore"].any():
        highest, judged = found.images["zscore"], found.covered["zscore"]
        volume = float(np.count_nonzero(highest[judged] > ABNORMAL) * abs(np.linalg.det(frame.affine[:3, :3])) / 1000)
        numbers |= {"z_mean": float(highest[judged].mean()), "z_max": float(highest[judged].max())}
        numbers["volume_above_3_ml"] = volume
    voxel = np.unravel_index(int(highest.argmax()), highest.shape)
    place = (frame.affine @ [*voxel, 1])[:3]
    return {**numbers, **dict(zip("xyz", map(float, place), strict=True))}


def calibration_of(folder: Path, weights: Path, given: Path | None) -> Calibration | None:
    """The calibration that was named, or the study's; None if there is none.

    Raises:
        ValueError: it is of other weights.
    """
    # As it was named, and where links lead: either may be the one inside of the study.
    whole = dict.fromkeys((Path(os.path.abspath(folder)), folder.resolve()))
    usual = [path.parents[2] / "calibration" / path.parent.name / path.name for path in whole if len(path.parents) > 2]
    places = [Path(given)] if given else [place for place in (folder / "calibration", *usual) if place.is_dir()]
    if not places:
        return None
    known = Calibration(places[0])
    if known.record["weights_sha256"] != digest(weights):
        raise ValueError(f"{places[0]} is the calibration of other weights than {weights}: make it anew.")
    return known


def run(arguments) -> int:
    """The command ``score``: 0 if all scans were scored, 1 if some failed, 2 if nothing could begin."""
    try:
        failed = score_scans(
            arguments.scans,
            arguments.model,
            arguments.out,
            arguments.calibration,
            arguments.trunk,
            arguments.device,
            arguments.skull_stripped,
            arguments.include,
        )
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename or arguments.out} cannot be read or written ({error.strerror}).", file=sys.stderr)
        return 2
    return int(failed > 0)
