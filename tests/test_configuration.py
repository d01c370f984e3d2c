import copy
import re
import shutil

import pytest
import yaml

from brainuad import configuration
from brainuad.anomalies import ALTERING, OVERWRITING
from brainuad.configuration import ConfigurationError, check, fill, model_classes
from conftest import ROOT

SCHEMA = ROOT / "config/schema/config.schema.yaml"
KINDS = [*OVERWRITING, *ALTERING]
RULES = yaml.safe_load(SCHEMA.read_text())
STUDY = {
    "datasets": {
        "site_a": {"manifest": "a.tsv", "split": {"train": 0.8, "validation": 0.0, "test": 0.2}},
        "site_b": {"phantom": {"subjects": 3}},
        "odd": {"from": "site_a"},
    },
    "models": {
        "vqvae": {"class": "vqvae.VQVAE", "params": {"codes": 8}},
        "mean": {"class": "floors.VoxelMean"},
    },
    "training": {"datasets": ["site_a"]},
}


def keys(rules, path=""):
    """Every key of the schema with its rule and whether it is required."""
    for name, rule in rules.get("properties", {}).items():
        yield f"{path}{name}", rule, name in rules.get("required", [])
        yield from keys(rule, f"{path}{name}.")
        for inner in (rule.get("additionalProperties"),):
            if isinstance(inner, dict):
                yield from keys(inner, f"{path}{name}.*.")


KEYS = list(keys(RULES))


@pytest.mark.parametrize(("key", "rule", "required"), KEYS, ids=[key for key, *_ in KEYS])
def test_every_key_has_type_description_and_default(key, rule, required):
    assert rule["type"]
    assert rule["description"].endswith(".")
    assert required or "default" in rule
    if "object" in rule["type"] and "*" not in key and key not in ("datasets", "models"):
        assert rule["additionalProperties"] is False, f"{key} accepts keys that nobody knows"


@pytest.mark.parametrize("key", [key for key, *_ in KEYS])
def test_every_key_is_explained_and_used(key):
    name = key.split(".")[-1]
    assert f"`{name}" in (ROOT / "config/README.md").read_text(), f"config/README.md does not explain {key}"
    sources = [*(ROOT / "scripts").rglob("*.py"), *(ROOT / "rules").rglob("*.smk")]
    used = re.compile(rf"""["'/]{name}["'/]|\b{name}=|\b{name}: """)
    assert any(used.search(path.read_text()) for path in sources), f"nothing uses {key}"


@pytest.mark.parametrize("study", ["config", "demo/config", "simulated/config"])
def test_the_studies_of_the_repository_are_valid(study):
    filled = check(yaml.safe_load((ROOT / study / "config.yaml").read_text()), SCHEMA)
    assert filled["preprocessing"]["bias_correction"]["spacing"] == 8.0


def test_defaults_fill_in_at_every_depth_and_the_input_is_left_alone():
    before = copy.deepcopy(STUDY)
    filled = check(STUDY, SCHEMA)
    assert before == STUDY
    assert filled["datasets"]["odd"]["anomalies"]["size"] == [20, 30]
    assert filled["datasets"]["site_b"]["split"]["test"] == 1.0
    assert filled["training"]["augmentation"]["rotation"] == 10.0
    assert filled["datasets"]["odd"]["anomalies"]["kinds"] == ["rectangle", "ellipse"]
    assert filled["datasets"]["odd"]["anomalies"]["grid"] is None
    assert check(filled, SCHEMA) == filled
    filled["datasets"]["odd"]["anomalies"]["size"][0] = 5
    assert fill(STUDY, RULES)["datasets"]["odd"]["anomalies"]["size"] == [20, 30]


def test_a_tilde_is_the_home_of_the_user(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    study = copy.deepcopy(STUDY)
    study["datasets"]["site_a"]["manifest"] = "~/lists/a.tsv"
    study["datasets"]["site_a"]["groups"] = {"reference": "control", "regions": "~/atlas.nii", "names": "~/atlas.tsv"}
    study["models"]["vqvae"]["weights"] = "~/vqvae/model.safetensors"
    checked = check(study, SCHEMA)
    assert checked["datasets"]["site_a"]["manifest"] == "/home/somebody/lists/a.tsv"
    assert checked["datasets"]["site_a"]["groups"]["regions"] == "/home/somebody/atlas.nii"
    assert checked["datasets"]["site_a"]["groups"]["names"] == "/home/somebody/atlas.tsv"
    assert checked["models"]["vqvae"]["weights"] == "/home/somebody/vqvae/model.safetensors"


def test_a_grid_is_filled_in_and_the_kinds_are_those_of_the_library():
    study = copy.deepcopy(STUDY)
    study["datasets"]["odd"]["anomalies"] = {"kinds": KINDS, "grid": {"size": [6.0, 12], "intensity": [0, 1]}}
    grid = check(study, SCHEMA)["datasets"]["odd"]["anomalies"]["grid"]
    assert grid == {"size": [6, 12], "intensity": [0, 1], "samples": 20}
    (known,) = (rule["items"]["enum"] for key, rule, _ in keys(RULES) if key.endswith("anomalies.kinds"))
    assert known == KINDS


MISTAKES = [
    ("training.epocs", 3, "`training.epocs` is not a known key"),
    ("models.vqvae.epoch", 3, "`models.vqvae.epoch` is not a known key; did you mean `epochs`?"),
    ("smaples", {}, "`smaples` is not a known key; did you mean `samples`?"),
    ("datasets.odd.anomalies", {"sizes": [1, 2]}, "did you mean `size`?"),
    ("models.vqvae.lr", "5e-4", "write 1.0e-4, not 1e-4"),
    ("models.vqvae.epochs", 1.5, "must be of type integer"),
    ("datasets.odd.groups", {"reference": "control"}, "`datasets.odd.groups` compares scans as they are"),
    (
        "datasets.site_a.groups",
        {"reference": "control", "names": "a.tsv"},
        "`datasets.site_a.groups.regions`, which is not",
    ),
    ("datasets.site_a.groups", {"regions": "a.nii"}, "`datasets.site_a.groups` lacks the key `reference`"),
    ("training.precision", "16", "none of auto, 32-true"),
    ("models.vqvae.class", "vqvae.VQVEA", "did you mean `vqvae.VQVAE`?"),
    ("models.vqvae.params", {"code": 8}, "did you mean `codes`?"),
    (
        "models.vqvae.requires",
        "meen",
        "`models.vqvae.requires` names 'meen', which does not exist; did you mean `mean`?",
    ),
    ("models.vqvae.requires", "vqvae", "`models.vqvae.requires` names 'vqvae'"),
    ("datasets.odd.from", "site_aa", "did you mean `site_a`?"),
    ("datasets.odd.from", "odd", "which does not exist"),
    ("comparison", {"floor": "vqvae"}, "which is a trained model: name one of the floors, mean, or null"),
    ("comparison", {"floor": "meen"}, "`comparison.floor` names 'meen', which does not exist; did you mean `mean`?"),
    ("training.datasets", ["site_c"], "`training.datasets` names 'site_c'"),
    ("training.datasets", ["site_b"], "`datasets.site_b.split.train` is 0"),
    ("training.datasets", [], "`training.datasets` has 0 entries"),
    ("datasets", {}, "`datasets` has 0 entries"),
    ("datasets.site_a.phantom", {"subjects": 2}, "needs exactly one source"),
    (
        "datasets.empty",
        {},
        "`datasets.empty` needs exactly one source of manifest, bids, pattern, phantom, from; found none",
    ),
    ("datasets.site_a.pattern", "a/{subject}.nii", "found manifest and pattern"),
    ("datasets.x", {"patern": "a/{subject}.nii"}, "`datasets.x.patern` is not a known key; did you mean `pattern`?"),
    ("datasets.x", {"pattern": "a/{subjekt}.nii"}, "has a {subjekt}, which is not known; did you mean `subject`?"),
    ("datasets.x", {"pattern": "a/{session}.nii"}, "which lacks {subject}"),
    ("datasets.x", {"pattern": "a/{subject.nii"}, "a brace is not closed"),
    ("datasets.x", {"pattern": "a/**/{subject}.nii"}, "a match never crosses a folder"),
    ("datasets.x", {"pattern": "../{subject}.nii"}, "leads out of a folder by ..; write an absolute path"),
    ("datasets.x", {"pattern": []}, "`datasets.x.pattern` has 0 entries"),
    ("datasets.x", {"pattern": 3}, "`datasets.x.pattern` must be of type string or array or null"),
    ("datasets.x", {"pattern": "{subject}/{session}", "lesion": "{subject}"}, "must both have {session}, or neither"),
    ("datasets.x", {"pattern": "{subject}", "columns": {"age": "Age"}}, "`participants` mean, which is not given"),
    ("datasets.x", {"pattern": "{subject}", "participants": "a", "columns": {"gender": "g"}}, "is not a known key"),
    ("datasets.site_a.lesion", "{subject}", "`datasets.site_a.lesion` goes with `pattern` or `bids`"),
    ("datasets.x", {"bids": "/data"}, "`datasets.x.bids` must be of type object or null"),
    ("datasets.x", {"bids": {"sufix": "T1w", "root": "a"}}, "did you mean `suffix`?"),
    ("datasets.x", {"bids": {}}, "`datasets.x.bids` lacks the key `root`"),
    ("datasets.x", {"bids": {"root": "a", "sessions": [1]}}, "`datasets.x.bids.sessions.0` must be of type string"),
    (
        "datasets.x",
        {"bids": {"root": "a", "entities": {"acquisition": "b"}}},
        "entities.acquisition` is not a known key",
    ),
    ("datasets.x", {"bids": {"root": "a"}, "pattern": "{subject}"}, "found bids and pattern"),
    ("datasets.Site-A", {"manifest": "a.tsv"}, "small letters, digits and underscores"),
    ("datasets.site_a.split", {"train": 0.8}, "sums to 1.8"),
    ("samples.size", [24, 64], "needs at least 32 pixels"),
    ("samples.positions", [], "`samples.positions` is empty"),
    ("datasets.odd.anomalies", {"size": [20, 200]}, "are larger than the frame"),
    ("datasets.odd.anomalies", {"grid": {"size": [9, 129], "intensity": [1]}}, "has 128 along its shorter side"),
    ("preprocessing.normalization", {"low": 99.5}, "must be below"),
    ("datasets.site_b.phantom", {}, "`datasets.site_b.phantom` lacks the key `subjects`"),
    ("models.vqvae.lr", float("nan"), "`models.vqvae.lr` is nan"),
    ("models.vqvae.warmup_epochs", 2000, "must be below its `epochs`"),
    ("models.vqvae.epochs", 0, "`models.vqvae.epochs` is 0, so `models.vqvae.weights` must name trained weights"),
    ("models.vqvae.weights", "vqvae.pth", "`models.vqvae.weights` must be a .safetensors file"),
    ("models.mean.weights", "mean.safetensors", "`models.mean.weights`: floors.VoxelMean is fitted at once"),
    ("models.vqvae.augmentation", {"flips": 0.5}, "did you mean `flip`?"),
    ("models.mean.label", "vqvae", "have the same label 'vqvae'"),
    ("models.mean.requires", "vqvae", "requires no other model, but `requires` names 'vqvae'"),
    ("models.prior", {"class": "vqvae_transformer.VQVAETransformer"}, "requires a model of class vqvae.VQVAE"),
    ("datasets.site_b.phantom", {"subjects": 3, "site": {"orientation": "RRS"}}, "orientation"),
    ("samples.positions", [500.0], "`samples.positions.0`"),
    ("datasets.odd.anomalies", {"size": [9, 3]}, "must be [smallest, largest]"),
    ("datasets.odd.anomalies", {"kinds": ["elipse"]}, "`datasets.odd.anomalies.kinds.0` is 'elipse'"),
    ("datasets.odd.anomalies", {"kinds": ["elipse"]}, "did you mean `ellipse`?"),
    ("datasets.odd.anomalies", {"kinds": []}, "`datasets.odd.anomalies.kinds` has 0 entries"),
    ("datasets.odd.anomalies", {"grid": {"size": [], "intensity": [1]}}, "`datasets.odd.anomalies.grid.size` has 0"),
    ("datasets.odd.anomalies", {"grid": {"size": [9], "intensity": []}}, "grid.intensity` has 0 entries"),
    ("datasets.odd.anomalies", {"grid": {"size": [9]}}, "`datasets.odd.anomalies.grid` lacks the key `intensity`"),
    ("datasets.odd.anomalies", {"grid": {"sizes": [9]}}, "did you mean `size`?"),
    (
        "datasets.odd.anomalies",
        {"grid": {"size": [9], "intensity": [1.5]}},
        "`datasets.odd.anomalies.grid.intensity.0`",
    ),
]


@pytest.mark.parametrize(("key", "value", "says"), MISTAKES, ids=[f"{key}={value}" for key, value, _ in MISTAKES])
def test_a_mistake_is_one_sentence_that_names_the_key(key, value, says):
    study = copy.deepcopy(STUDY)
    place = study
    *parents, last = key.split(".")
    for name in parents:
        place = place.setdefault(name, {})
    place[last] = value
    with pytest.raises(ConfigurationError) as error:
        check(study, SCHEMA)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_key_that_is_a_number_is_refused():
    study = copy.deepcopy(STUDY)
    study["datasets"][1] = {"manifest": "a.tsv"}
    with pytest.raises(ConfigurationError, match=r"`datasets\.1` must be a name"):
        check(study, SCHEMA)


def test_phantoms_make_a_study_simulated_and_whole_floats_become_integers():
    study = copy.deepcopy(STUDY)
    study["models"]["vqvae"]["epochs"] = 24.0
    study["samples"] = {"size": [96.0, 96.0]}
    filled = check(study, SCHEMA)
    assert filled["simulated"]
    assert [type(value) for value in (filled["models"]["vqvae"]["epochs"], *filled["samples"]["size"])] == [int] * 3
    del study["datasets"]["site_b"]
    assert not check(study, SCHEMA)["simulated"]


def test_the_digest_of_a_model_covers_the_model_files_it_imports(tmp_path, monkeypatch):
    shutil.copytree(configuration.MODELS, tmp_path / "models")
    monkeypatch.setattr(configuration, "MODELS", tmp_path / "models")
    names = ("vqvae.VQVAE", "vqvae_transformer.VQVAETransformer")
    before = [configuration.model_digest(name) for name in names]
    assert [configuration.model_digest(name) for name in names] == before
    healing = tmp_path / "models/healing.py"
    healing.write_text(healing.read_text() + "# changed\n")
    after = [configuration.model_digest(name) for name in names]
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_a_circle_of_requirements_is_refused():
    study = copy.deepcopy(STUDY)
    study["models"] = {
        "one": {"class": "vqvae.VQVAE", "requires": "two"},
        "two": {"class": "vqvae.VQVAE", "requires": "one"},
    }
    with pytest.raises(ConfigurationError, match="circle: one → two → one"):
        check(study, SCHEMA)


def test_model_classes_are_found_without_importing_them():
    classes = model_classes()
    assert set(classes) >= {"vqvae.VQVAE", "floors.VoxelMean", "floors.VoxelZ", "floors.Intensity"}
    assert "channels" in classes["vqvae.VQVAE"].parameters
    assert classes["vqvae_transformer.VQVAETransformer"].requires == "vqvae.VQVAE"
