"""The workflow itself: its layout, and a miniature study from end to end."""

import ast
import itertools
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import psutil
import pytest
import yaml

from conftest import ROOT
from miniature import copy_repository, miniature, patient, write

RULES = {
    match[1]: match[0]
    for path in sorted((ROOT / "rules").glob("*.smk"))
    for match in re.finditer(r"^rule (\w+):.*?(?=^rule |\Z)", path.read_text(), re.M | re.S)
}
DOORS = sorted((ROOT / "scripts").glob("*.py"))
LIBRARY = ROOT / "scripts/brainuad"
EXECUTABLES = Path(sys.executable).parent


def snakemake(folder, *arguments, root=ROOT, check=True):
    """Run Snakemake on a study; returns what it printed."""
    command = [
        EXECUTABLES / "snakemake",
        "--snakefile",
        root / "Snakefile",
        "--directory",
        folder,
        "--cores",
        "2",
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    output = done.stdout + done.stderr
    assert not check or done.returncode == 0, output
    return output


def begin(folder, *targets):
    """Start Snakemake on a study and return its process at once."""
    command = [EXECUTABLES / "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder, "--cores", "2"]
    return subprocess.Popen([*command, *targets], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)


def jobs(output):
    """The job counts that Snakemake prints, by rule."""
    table = output.split("Job stats:")[1].split("total")[0] if "Job stats:" in output else ""
    return {line.split()[0]: int(line.split()[1]) for line in table.splitlines()[3:] if len(line.split()) == 2}


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A miniature study that has run from raw scans to the table."""
    folder = tmp_path_factory.mktemp("study")
    miniature(folder)
    snakemake(folder)
    return folder


@pytest.fixture
def study(finished, tmp_path):
    """A copy of the finished study that a test may change; times of files are kept."""
    return shutil.copytree(finished, tmp_path / "study")


@pytest.mark.parametrize("rule", RULES)
def test_one_step_has_one_name(rule):
    text = RULES[rule]
    assert f'"../scripts/{rule}.py"' in text
    assert f'"results/logs/{rule}' in text
    assert f'"results/benchmarks/{rule}' in text
    # A synthetic cohort is a sample set like any other, and all figures lie in one place.
    folder = {"synthetic": "samples", "response_surface": "figures"}.get(rule, rule)
    output = text.split("output:")[1].split("log:")[0]
    assert f'"results/{folder}' in output
    for need in ("threads:", "mem_mb=scaled(", "runtime=scaled(", "conda:"):
        assert need in text, f"rule {rule} does not say {need}"


def test_every_door_belongs_to_a_rule():
    assert {path.stem for path in DOORS} == set(RULES)


@pytest.mark.parametrize("path", DOORS, ids=lambda path: path.name)
def test_a_script_is_a_door(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 15
    assert "snakemake.config" not in text
    assert not any(
        isinstance(node, (ast.FunctionDef, ast.For, ast.While, ast.If)) for node in ast.walk(ast.parse(text))
    )


def test_files_stay_small():
    assert len((ROOT / "Snakefile").read_text().splitlines()) <= 40
    for path in (ROOT / "rules").glob("*.smk"):
        assert len(path.read_text().splitlines()) <= 120, path
        assert "lambda" not in path.read_text(), path
    for path in LIBRARY.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 400, path


def test_what_is_personal_is_ignored_by_git():
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    paths = ("config/datasets/hcp.tsv", "config/datasets/ages.xlsx", "config/exclusions.tsv", "results/report.html")
    for path in (*paths, *(f"my_study/{path}" for path in paths)):
        assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False).returncode == 0, path
    for path in ("config/datasets/example.tsv", "config/exclusions.example.tsv", "results/README.md"):
        assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False).returncode == 1, path


def test_the_library_never_hears_of_snakemake():
    for path in LIBRARY.rglob("*.py"):
        if path.name != "runtime.py":
            assert "import snakemake" not in path.read_text(), path


def test_modules_import_only_from_those_above_them():
    order = re.findall(r"^(\w+) {2,}\w", (LIBRARY / "__init__.py").read_text(), re.M)
    modules = {path.stem for path in LIBRARY.glob("*.py")} - {"__init__"} | {"models"}
    assert set(order) == modules, "the map in brainuad/__init__.py is not the package"
    for path in LIBRARY.rglob("*.py"):
        own = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
        used = {name.split(".")[1] for name in imports(path) if name.startswith("brainuad.")} - {own}
        assert all(order.index(name) < order.index(own) for name in used), f"{path} imports {used}"


def test_what_every_job_imports_is_light():
    code = "import sys; import brainuad.configuration, brainuad.manifest, brainuad.sources; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "scripts"
    ).stdout.split()
    heavy = {"ancpbids", "torch", "monai", "ants", "nilearn", "scipy", "sklearn", "matplotlib"}
    assert not heavy & set(loaded)


def locked():
    """Pinned versions of the lock file."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", (ROOT / "requirements.lock").read_text(), re.M))


def test_the_lock_file_holds_hashes_and_no_addresses():
    text = (ROOT / "requirements.lock").read_text()
    assert "http" not in re.sub(r"[a-z-]*http[a-z-]*(==\S+)?", "", text)
    assert text.count("--hash=sha256:") > len(locked())
    assert locked()["torch"] == "2.10.0"


def test_the_container_is_made_of_the_lock_file():
    text = (ROOT / "envs/brainuad.def").read_text()
    assert "requirements.lock /opt/brainuad/requirements.lock" in text
    assert "pip install --no-cache-dir --require-hashes --requirement /opt/brainuad/requirements.lock" in text
    assert re.search(r"^From: python:3\.11\.\d+-slim", text, re.M)
    tested = re.search(r'python -c "import (.*?);', text)[1].split(", ")
    assert {PACKAGES.get(name, name) for name in tested} <= set(locked())


def test_the_submitting_side_has_what_the_workflow_imports():
    pins = yaml.safe_load((ROOT / "envs/workflow.yaml").read_text())["dependencies"][-1]["pip"]
    executor = {"snakemake", "snakemake-executor-plugin-slurm", "snakemake-executor-plugin-slurm-jobstep", "submitit"}
    imported = third_party(*(path for name in imported_by_rules() for path in sources(name)))
    assert {"pandas", "pyyaml", "jsonschema"} <= imported
    assert executor | imported <= {pin.split("==")[0] for pin in pins}


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.yaml")), ids=lambda path: path.name)
def test_environments_pin_what_the_lock_file_pins(path):
    environment = yaml.safe_load(path.read_text())
    pins = dict(pin.split("==") for pin in environment["dependencies"][-1]["pip"])
    assert pins == {name: locked()[name] for name in pins}
    needed = {name for rule, text in RULES.items() if f"../envs/{path.name}" in text for name in door_needs(rule)}
    assert needed <= set(pins), f"{path.name} lacks {needed - set(pins)}"
    comment = " ".join(line.strip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
    listed = re.match(r"Rules (.*?)\.", comment)
    users = {rule for rule, text in RULES.items() if f"../envs/{path.name}" in text}
    assert set(re.split(r", | and ", listed[1]) if listed else []) == users, f"the first line of {path.name}"


PACKAGES = {
    "ants": "antspyx",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "lightning_fabric": "lightning-fabric",
}


def door_needs(rule):
    """Distributions that a rule's door imports."""
    return third_party(ROOT / f"scripts/{rule}.py")


def imported_by_rules():
    """Modules of the library that the rule files, and so the Snakefile, import."""
    text = "".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    return re.findall(r"^\s*from (brainuad[\w.]*) import", text, re.M)


def sources(name):
    """Files of a module of the library."""
    place = LIBRARY.joinpath(*name.split(".")[1:])
    return [place / "__init__.py", *place.glob("*.py")] if place.is_dir() else [place.with_suffix(".py")]


def third_party(*files):
    """Distributions that files import, through the library's modules."""
    seen, queue, found = set(), list(files), set()
    while queue:
        path = queue.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "brainuad":
                queue += sources(name)
            elif parts[0] not in sys.stdlib_module_names:
                found.add(PACKAGES.get(parts[0], parts[0]))
    return found


def imports(path):
    """Modules that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (
                [f"brainuad.{alias.name}" for alias in node.names] if node.module == "brainuad" else [node.module]
            )


@pytest.mark.workflow
def test_lint_and_layout(tmp_path):
    miniature(tmp_path)
    assert "Congratulations" in snakemake(tmp_path, "--lint")
    subprocess.run(
        [EXECUTABLES / "snakefmt", "--check", "Snakefile", "rules"], check=True, cwd=ROOT, capture_output=True
    )


@pytest.mark.workflow
def test_a_program_for_brains_that_is_missing_is_named_before_anything_runs(tmp_path):
    config = miniature(tmp_path)
    config["preprocessing"]["brain_extraction"] = {"method": "hd-bet"}
    write(tmp_path, config)
    says = "asks for hd-bet, which is not installed on"
    planned = snakemake(tmp_path, "-n")
    assert says in planned, "a warning: jobs may run elsewhere"
    assert "preprocess" in jobs(planned)
    assert says in snakemake(tmp_path, check=False)
    assert not (tmp_path / "results/phantom").exists()
    config["preprocessing"]["brain_extraction"] = {"method": "command", "command": "bet {inptu} {output}"}
    write(tmp_path, config)
    output = snakemake(tmp_path, "-n", check=False)
    assert "has a {inptu}, which is not known; known are input, output, mask." in output
    assert "Traceback" not in output


@pytest.mark.workflow
def test_the_profile_for_slurm_is_found_by_its_short_name(tmp_path):
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    assert set(profile["set-resources"]) <= set(RULES)
    miniature(tmp_path)
    planned = snakemake(tmp_path, "--profile", "slurm", "-n")
    assert "Using profile slurm" in planned
    assert "launcher=slurm" in planned
    assert "slurm_partition=gpu, " in planned


def resources_by_job(planned):
    """The resources of the trainings and scores of a dry run, by the rule and the model."""
    found = {}
    for text in re.split(r"\n(?=\[| *(?:local)?rule )", planned):
        if match := re.match(r" *(?:local)?rule (train|score):.*?model=(\w+).*?resources: (.*)", text, re.S):
            found[match[1], match[2]] = dict(word.split("=", 1) for word in match[3].split("\n")[0].split(", "))
    return found


@pytest.mark.workflow
def test_the_page_about_clusters_shows_the_jobs_that_are_planned(tmp_path):
    miniature(tmp_path)
    planned = snakemake(tmp_path, "--profile", "slurm", "-n", "--quiet", "rules")
    page = (ROOT / "docs/cluster.md").read_text()
    assert planned.split("Job stats:")[1].split("\n\n")[0].strip() in page
    total = re.search(r"^total\s+(\d+)$", planned, re.M)[1]
    assert f"\n{total} of {total} steps (100%) done\n" in page


@pytest.mark.workflow
def test_only_jobs_that_need_a_gpu_ask_for_one(tmp_path):
    config = miniature(tmp_path)
    asked = resources_by_job(snakemake(tmp_path, "--profile", "slurm", "-n", "--resources", "gpu=1"))
    assert asked["train", "vqvae"].items() >= {"gpu": "1", "gpu_model": "v100", "slurm_partition": "gpu"}.items()
    assert asked["score", "voxel_z"].items() >= {"gpu": "1", "gpu_model": "v100", "slurm_partition": "gpu"}.items()
    assert asked["train", "voxel_z"].items() >= {"gpu": "0", "slurm_partition": "cpu"}.items()
    assert "gpu_model" not in asked["train", "voxel_z"]
    refused = snakemake(tmp_path, "--profile", "slurm", "-n", "--resources", "gpu=0", check=False)
    assert "allows fewer GPUs than a job of rule train needs (1)" in refused
    config["training"]["device"] = "cpu"
    write(tmp_path, config)
    asked = resources_by_job(snakemake(tmp_path, "--profile", "slurm", "-n", "--resources", "gpu=0"))
    assert len(asked) == 4
    for resources in asked.values():
        assert resources.items() >= {"gpu": "0", "slurm_partition": "cpu"}.items()
        assert "gpu_model" not in resources


@pytest.mark.workflow
def test_a_job_of_more_scans_asks_for_more_time(tmp_path):
    config = miniature(tmp_path)

    def asked(until="samples"):
        planned = snakemake(tmp_path, "-n", "--until", until)
        found = re.findall(r"^(?:local)?rule (\w+):.*?runtime=(\d+)", planned, re.M | re.S)
        return {rule: max(int(minutes) for name, minutes in found if name == rule) for rule, _ in found}

    short = {"phantom": 60, "preprocess": 60, "quality": 15, "samples": 60}
    assert asked().items() >= short.items()
    config["preprocessing"]["scans_per_job"] = 1000
    config["datasets"]["phantom_a"]["phantom"]["subjects"] = 2000
    write(tmp_path, config)
    assert asked().items() >= {"phantom": 2000, "preprocess": 2000, "quality": 100, "samples": 100}.items()
    config["maps"] = {"datasets": ["phantom_a_synthetic"]}
    write(tmp_path, config)
    assert asked("maps").items() >= {"calibration": 100, "maps": 1000}.items(), "a synthetic dataset has scans, too"
    assert asked("metrics")["metrics"] == 100, "of slices; volumes take more"


@pytest.mark.workflow
def test_the_study_of_the_tests_on_slurm_can_be_planned(tmp_path):
    """Those tests take minutes and are not everywhere: a configuration that is none any more must be seen here."""
    repository, study = copy_repository(tmp_path / "repository"), tmp_path / "study"
    patient(study)
    planned = snakemake(study, "--profile", "slurm", "-n", root=repository)
    assert jobs(planned).items() >= {"train": 1, "score": 1, "thresholds": 1, "report": 1}.items()


@pytest.mark.workflow
def test_jobs_of_one_model_are_one_job_of_slurm(tmp_path):
    miniature(tmp_path)
    planned = snakemake(tmp_path, "--profile", "slurm", "-n", "--verbose")
    groups = re.findall(r"Group job (\w+) ", planned)
    assert sorted(groups) == [f"{kind}_{model}_1" for kind in ("measure", "score") for model in ("voxel_z", "vqvae")]


@pytest.mark.workflow
def test_a_type_of_gpu_that_the_executor_refuses_is_refused_at_once(tmp_path):
    miniature(tmp_path)
    options = ("--profile", "slurm", "-n", "--set-resources", "score:gpu_model=a100-sxm4")
    assert "`gpu_model` of rule score is 'a100-sxm4'" in snakemake(tmp_path, *options, check=False)


@pytest.mark.workflow
def test_another_trunk_is_fetched_by_a_rule_of_its_own(tmp_path):
    config = miniature(tmp_path)
    config["scoring"] = {"trunk": "squeeze"}
    write(tmp_path, config)
    assert jobs(snakemake(tmp_path, "-n"))["trunk"] == 1


@pytest.mark.workflow
def test_examples_are_not_drawn_from_a_grid_of_anomalies(tmp_path):
    config = miniature(tmp_path)
    grid = config["datasets"].pop("phantom_a_suite")
    synthetic = config["datasets"].pop("phantom_a_synthetic")
    config["datasets"] |= {"phantom_a_suite": grid, "phantom_a_synthetic": synthetic}
    write(tmp_path, config)
    planned = snakemake(tmp_path, "-n", "results/figures/qualitative.png")
    assert "phantom_a_synthetic/map.npy" in planned
    assert "phantom_a_suite" not in planned
    del config["datasets"]["phantom_a_synthetic"]
    config["maps"]["datasets"] = []
    write(tmp_path, config)
    assert "phantom_a_suite/map.npy" in snakemake(tmp_path, "-n", "results/figures/qualitative.png")
    del config["datasets"]["phantom_a_suite"]
    write(tmp_path, config)
    assert not {"response", "response_surface", "synthetic"} & set(jobs(snakemake(tmp_path, "-n")))


@pytest.mark.workflow
def test_without_data_the_papers_study_says_what_is_missing():
    output = snakemake(".", "-n", check=False)
    for words in ("config/datasets/hcp.tsv", "config/datasets/santpau.tsv", "make demo"):
        assert words in output
    assert "Traceback" not in output


@pytest.mark.workflow
def test_a_dry_run_says_what_of_each_dataset_is_used(tmp_path):
    config = miniature(tmp_path / "study")
    for subject in range(20):
        (tmp_path / f"archive/{subject:02d}").mkdir(parents=True)
        if subject:
            (tmp_path / f"archive/{subject:02d}/t1.nii.gz").touch()
    config["datasets"]["archive"] = {"pattern": str(tmp_path / "archive/{subject}/t1.nii.gz")}
    write(tmp_path / "study", config)
    output = snakemake(tmp_path / "study", "-n")
    assert "phantom_a: 8 simulated scans of 8 subjects, used 8." in output
    assert "archive: found 19 scans by its pattern, used 19, of 19 subjects (the first is sub-01" in output
    assert output.count("left out 1 (subjects or sessions without such a file; the first is") == 1
    planned = re.findall(r"rule (\w+):\n +input: (.*)\n", output)
    read = [files for rule, files in planned if rule == "preprocess"]
    assert read
    assert not any("," in files for files in read), "however many scans, a job has one input: parsing is slow"
    scored = [files for rule, files in planned if rule == "score"]
    assert scored
    assert all("results/intake.tsv" in files for files in scored), "first it is known that no scan is twice"
    decisions = tmp_path / "study/config/exclusions.tsv"
    decisions.write_text("dataset\tsubject\tdecision\narchive\t02\texclude\n")
    assert "archive: found 19 scans by its pattern, used 18, of 19" in snakemake(tmp_path / "study", "-n")
    decisions.unlink()
    listed = pd.read_csv(tmp_path / "study/results/sources/archive.tsv", sep="\t", dtype=str)
    assert len(listed) == 19
    snakemake(tmp_path / "study", "results/preprocess/archive/chunk-0001.tsv")  # the job parses the workflow, too
    done = pd.read_csv(tmp_path / "study/results/preprocess/archive/chunk-0001.tsv", sep="\t", dtype=str)
    assert set(done["scan"]) == set(listed["scan"][: len(done)])
    assert set(done["status"]) == {"excluded"}, "they are empty files"
    assert "Nothing to be done" in snakemake(tmp_path / "study", "results/preprocess/archive/chunk-0001.tsv")
    (tmp_path / "archive/01/t1.nii.gz").write_text("another scan")
    assert jobs(snakemake(tmp_path / "study", "-n", "results/preprocess/archive/chunk-0001.tsv")) == {"preprocess": 1}
    config["datasets"]["archive"]["pattern"] = str(tmp_path / "archive/{subject}/t2.nii.gz")
    write(tmp_path / "study", config)
    output = snakemake(tmp_path / "study", "-n", check=False)
    assert "`datasets.archive.pattern` matches no file" in output
    assert "Traceback" not in output


@pytest.mark.workflow
def test_a_misspelt_key_stops_the_parse_with_one_sentence(tmp_path):
    config = miniature(tmp_path)
    config["training"]["presicion"] = "auto"
    write(tmp_path, config)
    output = snakemake(tmp_path, "-n", check=False)
    assert "`training.presicion` is not a known key; did you mean `precision`?" in output
    assert "Traceback" not in output


@pytest.mark.workflow
def test_the_table_has_every_model_and_dataset(finished):
    config = yaml.safe_load((finished / "config/config.yaml").read_text())
    table = pd.read_csv(finished / "results/comparison.tsv", sep="\t")
    assert list(table["model"]) == list(config["models"])
    assert list(table["floor"]) == [False, True]
    for column in (
        "phantom_a/ssim/frame/images",
        "phantom_b/ssim/brain/images",
        "phantom_a_synthetic/auroc/frame/pixels",
    ):
        assert table[column].between(-1, 1).all(), column
    assert table.set_index("model").loc["voxel_z", "phantom_a_synthetic/auroc/frame/pixels"] > 0.7
    assert "simulated" in (finished / "results/table2.md").read_text()
    assert "phantom_a_suite" not in (finished / "results/table2.md").read_text()
    assert not (finished / "results/metrics/voxel_z/1/phantom_a_suite.tsv").exists(), "a grid has its response alone"
    assert "phantom_a_suite" not in (finished / "results/significance.tsv").read_text()
    response = pd.read_csv(finished / "results/response/voxel_z/1/phantom_a_suite.tsv", sep="\t")
    assert response[["average_precision", "detection"]].notna().all(axis=None)
    for model in config["models"].values():
        assert model["label"] in (finished / "results/table2.tex").read_text()


@pytest.mark.workflow
def test_what_a_paper_printed_stands_beside_what_was_measured(study):
    """The cells are made up: what simulated scans give says nothing about what anybody printed."""
    config = yaml.safe_load((study / "config/config.yaml").read_text())
    config["comparison"]["published"] = "config/published.tsv"
    write(study, config)
    cells = [("vqvae", "phantom_a", "ssim", 0.5), ("voxel_z", "phantom_a_synthetic", "average_precision", 0.01)]
    cells.append(("rae", "phantom_a", "ssim", 0.6))
    published = pd.DataFrame(cells, columns=["model", "dataset", "metric", "value"]).assign(note="made up")
    published.to_csv(study / "config/published.tsv", sep="\t", index=False)
    planned = jobs(snakemake(study, "-n"))
    assert planned.items() >= {"paper_difference": 1, "report": 1}.items()
    assert not {"train", "score", "metrics"} & set(planned)
    assert "this study has not rae; the cells stay without ours" in snakemake(study)
    table = pd.read_csv(study / "results/paper_difference.tsv", sep="\t").set_index(["model", "metric"])
    wide = pd.read_csv(study / "results/comparison.tsv", sep="\t").set_index("model")
    assert table.loc[("vqvae", "ssim"), "ours"] == pytest.approx(wide.loc["vqvae", "phantom_a/ssim/frame/images"])
    ours = wide.loc["voxel_z", "phantom_a_synthetic/average_precision/frame/pixels"]
    assert table.loc[("voxel_z", "average_precision"), "difference"] == pytest.approx(ours - 0.01)
    assert table.loc[("rae", "ssim"), "reason"] == "not in this study"
    label = config["models"]["vqvae"]["label"]
    for page in ("paper_difference.html", "report.html"):
        text = (study / "results" / page).read_text()
        assert "made up" in text, page
        assert f"{ours - 0.01:.3f}" in text, page
        assert label in text, page
    assert 'id="published"' in text


@pytest.mark.workflow
def test_the_costs_count_every_job(finished):
    table = pd.read_csv(finished / "results/costs.tsv", sep="\t").set_index("rule")
    records = [
        path.relative_to(finished / "results/benchmarks") for path in finished.rglob("results/benchmarks/**/*.tsv")
    ]
    counts = Counter(path.parts[0].removesuffix(".tsv") for path in records)
    assert table["jobs"].to_dict() == {rule: count for rule, count in counts.items() if rule not in ("costs", "report")}
    assert (table["max_seconds"] > 0).all()


@pytest.mark.workflow
def test_nothing_personal_of_a_scan_reaches_reports_and_images(finished):
    """Whose file a scan is may be read from its path, and headers are where scanners write names."""
    results = finished / "results"
    tables = [path for path in results.glob("*.*") if path.suffix in (".html", ".tsv", ".csv", ".md", ".tex")]
    groups = list((results / "groups").rglob("*.tsv"))
    assert groups
    for path in (*tables, *groups):
        assert "results/phantom" not in path.read_text(), path
    images = [path for path in results.rglob("*.nii.gz") if "phantom" not in path.relative_to(results).parts[0]]
    assert {path.relative_to(results).parts[0] for path in images} >= {"preprocess", "groups", "maps", "calibration"}
    for path in images:
        header = nib.load(path).header
        assert not any(header[name].item() for name in ("descrip", "aux_file", "intent_name", "db_name")), path
        assert not header.extensions, path


@pytest.mark.workflow
def test_groups_are_compared_end_to_end(finished):
    """Two simulated patients and two controls show that the files fit, not that anything differs."""
    folder = finished / "results/groups/phantom_b/vqvae/1"
    table = pd.read_csv(folder / "groups.tsv", sep="\t")
    assert list(table["group"]) == ["control", "patient"]
    assert list(table["subjects"]) == [2, 2]
    assert table["voxels"][1] > 100
    assert 0 <= table["mean_z_auroc"][1] <= 1
    scan = next((finished / "results/preprocess/phantom_b").glob("*/t1w.nii.gz"))
    for name in ("mean_control", "mean_patient", "effect_patient", "found_patient"):
        image = nib.load(folder / f"maps/{name}.nii.gz")
        np.testing.assert_allclose(image.affine, nib.load(scan).affine)
        assert image.shape == nib.load(scan).shape
    page = (finished / "results/report.html").read_text()
    assert "Groups of phantom_b" in page


@pytest.mark.workflow
def test_groups_that_cannot_be_compared_stop_the_parse(tmp_path):
    config = miniature(tmp_path)
    config["datasets"]["phantom_b"]["groups"]["reference"] = "healthy"
    write(tmp_path, config)
    output = snakemake(tmp_path, "-n", check=False)
    assert "the reference is 'healthy', but the groups of the test subjects are control, patient" in output
    assert "Traceback" not in output
    del config["datasets"]["phantom_b"]["groups"]
    write(tmp_path, config)
    assert "groups" not in jobs(snakemake(tmp_path, "-n"))


@pytest.mark.workflow
def test_the_result_map_names_every_file(finished):
    text = (ROOT / "results/README.md").read_text()
    for path in (finished / "results").rglob("*"):
        parts = path.relative_to(finished / "results").parts
        if path.is_file() and parts[0] not in ("logs", "benchmarks"):
            assert path.name in text or (path.suffix in text and parts[0].split(".")[0] in text), path
            assert parts[0].split(".")[0] in text, path


@pytest.mark.workflow
def test_a_second_run_has_nothing_to_do(finished):
    assert "Nothing to be done" in snakemake(finished)


@pytest.mark.workflow
def test_snakemakes_own_report_opens_without_internet(finished):
    snakemake(finished, "--report", finished / "results/workflow.html")
    page = (finished / "results/workflow.html").read_text()
    assert "Demonstration on simulated scans" in page
    assert not re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=[\"']https?:", page)


@pytest.mark.workflow
def test_a_killed_run_is_finished_by_the_next_with_the_same_table(finished, study):
    for name in ("train", "score", "metrics", "comparison.tsv"):
        path = study / "results" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    run = begin(study)
    first = study / "results/score"
    while run.poll() is None and not list(first.rglob("map.npy")):
        time.sleep(0.2)
    run.send_signal(signal.SIGKILL)
    run.wait()
    weights = {path: path.stat().st_mtime_ns for path in study.rglob("model.safetensors")}
    assert weights
    snakemake(study, "--unlock")
    output = snakemake(study, "--rerun-incomplete")
    trained_again = [path for path, time_ns in weights.items() if path.stat().st_mtime_ns != time_ns]
    assert len(trained_again) <= 2  # at most the jobs that were running on the two cores
    assert jobs(output).get("phantom", 0) == jobs(output).get("preprocess", 0) == 0
    assert (study / "results/table2.csv").read_text() == (finished / "results/table2.csv").read_text()


@pytest.mark.workflow
def test_no_job_outlives_a_workflow_that_is_killed_while_the_job_begins(study):
    target = "results/train/vqvae/1/model.safetensors"
    (study / target).unlink()
    config = yaml.safe_load((study / "config/config.yaml").read_text())
    config["models"]["vqvae"]["epochs"] = 10_000
    write(study, config)
    run = begin(study, target)
    while run.poll() is None and not (begun := jobs_of(study)):
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    gone, alive = psutil.wait_procs(begun, timeout=30)
    assert gone
    assert not alive


def jobs_of(study):
    """The processes that run a script of this study."""
    scripts = str(study / ".snakemake/scripts")
    return [p for p in psutil.process_iter(["cmdline"]) if any(scripts in word for word in p.info["cmdline"] or ())]


@pytest.mark.workflow
def test_renaming_a_row_or_adding_a_seed_trains_nothing_again(study):
    config = yaml.safe_load((study / "config/config.yaml").read_text())
    config["models"]["vqvae"]["label"] = "Another name"
    config["training"]["seeds"] = [1, 2]
    write(study, config)
    planned = jobs(snakemake(study, "-n"))
    assert planned["train"] == len(config["models"])
    assert "phantom" not in planned


@pytest.mark.workflow
def test_what_a_dataset_says_of_its_people_cuts_no_samples_anew(study):
    config = yaml.safe_load((study / "config/config.yaml").read_text())
    config["datasets"]["phantom_b"]["people"] = "same"
    write(study, config)
    assert not {"samples", "train", "score"} & set(jobs(snakemake(study, "-n")))
    config["datasets"]["phantom_b"]["split"] = {"train": 0.0, "validation": 0.05, "test": 0.95}
    write(study, config)
    assert jobs(snakemake(study, "-n"))["samples"] == 1


@pytest.mark.workflow
def test_a_dataset_is_a_manifest_and_an_entry(study):
    config = yaml.safe_load((study / "config/config.yaml").read_text())
    scans = [brighter(path) for path in sorted((study / "results/phantom/phantom_b").glob("*/t1w.nii.gz"))]
    rows = [f"new{i}\t{path}\t{ball(path) if i else ''}" for i, path in enumerate(scans)]
    (study / "new.tsv").write_text("\n".join(["subject\tt1w\tlesion", *rows]))
    config["datasets"]["newcomer"] = {"manifest": "new.tsv"}
    write(study, config)
    models = len(config["models"])
    expected = {
        "preprocess": 1,
        "quality": 1,
        "intake": 1,
        "samples": 1,
        "score": models,
        "metrics": models,
        "comparison": 1,
        "significance": 1,
        "costs": 1,
        "report": 1,
        "all": 1,
    }
    assert jobs(snakemake(study)) == expected
    table = pd.read_csv(study / "results/comparison.tsv", sep="\t")
    assert table["newcomer/ssim/frame/images"].notna().all()
    assert table[["newcomer/auroc/brain/pixels", "newcomer/average_precision/frame/pixels"]].notna().all(axis=None)
    assert table["newcomer/lesion_outside_brain/frame/pixels"].between(0.05, 0.95).all(), (
        "measured for real lesions, too"
    )
    assert "lesion_outside_brain" in (study / "results/logs/metrics/voxel_z/1/newcomer.log").read_text()


def brighter(path):
    """Write the scan of another subject, by its voxels; returns its path."""
    scan = nib.load(path)
    nib.save(nib.Nifti1Image(1.1 * scan.get_fdata(dtype=np.float32), scan.affine), path.with_name("brighter.nii.gz"))
    return path.with_name("brighter.nii.gz")


@pytest.mark.workflow
def test_a_scan_that_was_trained_on_is_not_tested_on(study):
    config = yaml.safe_load((study / "config/config.yaml").read_text())
    scan = next((study / "results/phantom/phantom_a").glob("*/t1w.nii.gz"))
    mirrored = nib.load(scan).as_reoriented([[0, -1], [2, 1], [1, 1]])
    nib.save(mirrored, study / "other.nii")
    (study / "new.tsv").write_text("subject\tt1w\nsomebody\tother.nii\n")
    config["datasets"]["newcomer"] = {"manifest": "new.tsv"}
    config["training"]["seeds"] = [2]
    write(study, config)
    output = snakemake(study, check=False)
    assert f"1 scan is there twice, voxel for voxel: {scan.parent.name} of 'phantom_a'" in output
    assert "= sub-somebody of 'newcomer' (test)" in output
    assert not list(study.glob("results/train/*/2/model.json")), "nothing was trained"
    assert "Traceback" not in output
    subject = scan.parent.name.removeprefix("sub-")
    (study / "new.tsv").write_text(f"subject\tt1w\n{subject}\tother.nii\n")
    output = snakemake(study, "-n", check=False)
    assert f"The datasets 'phantom_a' and 'newcomer' share the subject '{subject}'." in output
    assert "Traceback" not in output


@pytest.mark.workflow
def test_a_decision_makes_anew_what_follows_and_no_more(study):
    config = yaml.safe_load((study / "config/config.yaml").read_text())
    del config["datasets"]["phantom_b"]["groups"]  # one subject of a group would be left, which is refused
    write(study, config)
    dataset = study / "results/quality/phantom_b.tsv"
    subject = pd.read_csv(dataset, sep="\t", dtype=str)["subject"][0]
    (study / "config/exclusions.tsv").write_text(
        f"dataset\tsubject\tdecision\treason\nphantom_b\t{subject}\texclude\tmoved\n"
    )
    planned = jobs(snakemake(study, "results/report.html"))
    assert not {"phantom", "preprocess", "train", "thresholds", "synthetic"} & set(planned)
    assert (planned["quality"], planned["samples"], planned["score"]) == (1, 1, 2)
    table = pd.read_csv(dataset, sep="\t", dtype=str).set_index("subject")
    assert table.loc[subject, ["status", "code"]].tolist() == ["excluded", "excluded"]
    page = (study / "results/quality/phantom_b.html").read_text()
    for text in (page, (study / "results/report.html").read_text()):
        assert "By config/exclusions.tsv: moved" in text
    assert "3 of 4 scans are used, 1 left out." in page
    line = re.search("<code>(phantom_b\t[^<]+)</code>", page)[1]
    assert line.split("\t")[3] == "exclude", "of the scan that is still in"
    counted = pd.read_csv(study / "results/intake.tsv", sep="\t").set_index(["dataset", "code"])["scans"]
    assert counted["phantom_b"].to_dict() == {"found": 4, "used": 3, "excluded": 1}
    assert "Nothing to be done" in snakemake(study, "results/report.html")


def ball(path):
    """Write a lesion that lies half outside the brain beside a scan; returns its path."""
    scan = nib.load(path)
    points = nib.affines.apply_affine(scan.affine, np.indices(scan.shape).reshape(3, -1).T)
    inside = np.linalg.norm(points - [65, -18, 8], axis=1) < 20
    lesion = path.with_name("lesion.nii.gz")
    nib.save(nib.Nifti1Image(inside.reshape(scan.shape).astype(np.uint8), scan.affine), lesion)
    return lesion


NEW_MODEL = '''"""Blur: what is left of an image without its detail."""

from typing import ClassVar

import torch
from torch.nn import functional as F

from brainuad.models.detector import Detector


class Blur(Detector):
    """Reconstructs an image as its local mean times a learned gain."""

    tiny: ClassVar[dict] = {"width": 3}

    def __init__(self, size, width: int = 5):
        super().__init__(size)
        self.width = width
        self.gain = torch.nn.Parameter(torch.ones(()))

    def loss(self, x):
        """L1."""
        return {"loss": (self.reconstruct(x) - x).abs().mean()}

    def reconstruct(self, x):
        """Local mean."""
        return self.gain * F.avg_pool2d(x, self.width, stride=1, padding=self.width // 2, count_include_pad=False)
'''


@pytest.mark.workflow
def test_a_model_is_a_file_and_an_entry(study, tmp_path):
    copy = tmp_path / "repository"
    for name in ("rules", "scripts", "envs", "config", "resources"):
        shutil.copytree(ROOT / name, copy / name)
    shutil.copy2(ROOT / "Snakefile", copy)
    (copy / "scripts/brainuad/models/blur.py").write_text(NEW_MODEL)
    config = yaml.safe_load((study / "config/config.yaml").read_text())
    config["models"]["blur"] = {
        "class": "blur.Blur",
        "params": {"width": 7},
        "epochs": 1,
        "batch_size": 2,
        "lr": 0.01,
    }
    write(study, config)
    datasets = len(config["datasets"])
    # Without the trigger "input": the trunk of the perceptual distance has another path in the copy.
    output = snakemake(study, "--rerun-triggers", "mtime", "params", "code", root=copy)
    assert jobs(output) == {
        "train": 1,
        "score": datasets,
        "thresholds": 1,
        "metrics": datasets - 1,  # a grid has its response alone
        "response": 1,
        "comparison": 1,
        "significance": 1,
        "figures": 1,
        "response_surface": 1,
        "costs": 1,
        "report": 1,
        "all": 1,
    }
    assert "blur" in set(pd.read_csv(study / "results/comparison.tsv", sep="\t")["model"])


@pytest.mark.workflow
def test_bad_scans_are_set_aside_and_the_others_finish(finished, tmp_path):
    raw = sorted(finished.glob("results/phantom/*/*/t1w.nii.gz"))
    bad = tmp_path / "raw"
    bad.mkdir()
    scan = nib.load(raw[0])
    array = scan.get_fdata(dtype=np.float32)
    (bad / "truncated.nii.gz").write_bytes(raw[0].read_bytes()[:20_000])
    (bad / "text.nii.gz").write_text("not an image")
    nib.save(nib.Nifti1Image(np.stack([array, array], -1), scan.affine), bad / "series.nii.gz")
    nib.save(nib.Nifti1Image(np.where(array > 0, np.nan, array), scan.affine), bad / "nan.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros_like(array), scan.affine), bad / "empty.nii.gz")
    names = ("truncated", "text", "series", "nan", "empty", "absent")
    rows = [f"fine{i}\t{path}" for i, path in enumerate(raw[:4])] + [f"{name}\traw/{name}.nii.gz" for name in names]
    (tmp_path / "cohort.tsv").write_text("\n".join(["subject\tt1w", *rows]))
    config = miniature(tmp_path)
    config["datasets"] = {"cohort": {"manifest": "cohort.tsv", "split": {"train": 0.5, "validation": 0.0, "test": 0.5}}}
    config["training"]["datasets"] = ["cohort"]
    config["models"] = {"mean": {"class": "floors.VoxelMean"}}
    config["comparison"], config["maps"] = {}, {}
    write(tmp_path, config)
    snakemake(tmp_path, "--keep-going")
    quality = pd.read_csv(tmp_path / "results/quality/cohort.tsv", sep="\t", keep_default_na=False).set_index("subject")
    assert quality["status"].value_counts().to_dict() == {"included": 4, "excluded": len(names)}
    for name in names:
        assert f"{name}.nii.gz" in quality.loc[name, "reason"]
    codes = ("unreadable", "unreadable", "dimensions", "non_finite", "constant", "missing")
    assert quality.loc[list(names), "code"].tolist() == list(codes)
    counted = pd.read_csv(tmp_path / "results/intake.tsv", sep="\t").set_index("code")["scans"].to_dict()
    assert counted == {"found": 4 + len(names), "used": 4, **Counter(codes)}
    page = (tmp_path / "results/report.html").read_text()
    assert "truncated, wrongly compressed" in page
    assert ".nii.gz" not in page
    table = pd.read_csv(tmp_path / "results/comparison.tsv", sep="\t")
    assert table["cohort/ssim/frame/images"].notna().all()


@pytest.mark.workflow
def test_the_readme_draws_the_true_rule_graph(tmp_path):
    miniature(tmp_path)
    drawn = snakemake(tmp_path, "--rulegraph", "mermaid-js")
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", drawn))
    true = {(names[start], names[end]) for start, end in re.findall(r"(id\d+) --> (id\d+)", drawn)}
    block = (ROOT / "README.md").read_text().split("```mermaid")[1].split("```")[0]
    chains = [line.strip().split(" --> ") for line in block.splitlines() if "-->" in line]
    in_readme = {pair for chain in chains for pair in itertools.pairwise(chain)}
    assert in_readme == {pair for pair in true if pair[1] != "all"}
