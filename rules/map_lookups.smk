"""What the rules about maps as images, and about groups compared by them, look up."""

from brainuad.grouping import check_all_groups

try:
    check_all_groups(left, config["datasets"], config["seed"])
except ValueError as error:
    raise WorkflowError(str(error)) from None


def map_tables():
    """The tables of the maps that the configuration asks for."""
    asked = config["maps"]
    return collect(
        "results/maps/{dataset}/{model}/seed-{seed}/table.tsv",
        dataset=asked["datasets"],
        model=asked["models"] or list(models),
        seed=asked["seeds"] or seeds[:1],
    )


def scans_of(dataset):
    """The dataset whose scans the samples of a dataset were cut from."""
    return config["datasets"][dataset]["from"] or dataset


def native_scans(wildcards):
    """The file of each scan, whose grid its maps are taken to."""
    table = scans[scans_of(wildcards.dataset)]
    return dict(zip(table["scan"], table["t1w"], strict=True))


def healthy_groups(wildcards):
    """Of each training dataset the group that is healthy, or None where all are."""
    groups = [config["datasets"][dataset]["groups"] for dataset in training_datasets]
    return [entry["reference"] if entry else None for entry in groups]


def source_reference(wildcards):
    """The group that is healthy of the dataset that a synthetic one is made from, or None where all are."""
    entry = config["datasets"][scans_of(wildcards.dataset)]["groups"]
    return entry["reference"] if entry else None


def calibration_settings(wildcards):
    """What a calibration has to know about the study; it goes along with the weights."""
    described = {key: config[key] for key in ("samples", "scoring", "quality", "simulated")}
    described["references"] = healthy_groups(wildcards)
    return {**described, "maps": {key: config["maps"][key] for key in ("smoothing", "minimum_subjects", "std_floor")}}


def calibration_minutes(wildcards):
    """What a calibration needs, which goes through the maps of the training datasets: no more than one of each scan."""
    return max(30, math.ceil(MINUTES_TO_READ * sum(len(scans[dataset]) for dataset in training_datasets)))


def map_settings(wildcards):
    """What the maps of a dataset have to know about the study."""
    named = {"dataset": wildcards.dataset, "model": wildcards.model, "scans_of": scans_of(wildcards.dataset)}
    return {**named, "simulated": config["simulated"], "pages": config["maps"]["pages"]}


def compared_groups(file):
    """One file of each comparison: of all datasets with groups, by the models and seeds whose maps are written."""
    asked = config["maps"]
    return collect(
        f"results/groups/{{dataset}}/{{model}}/{{seed}}/{file}",
        dataset=[name for name in scans if config["datasets"][name]["groups"]],
        model=asked["models"] or list(models),
        seed=asked["seeds"] or seeds[:1],
    )


def atlas_files(wildcards):
    """The regions of a dataset's comparison and their names, if there are any."""
    asked = config["datasets"][wildcards.dataset]["groups"]
    return [asked[key] for key in ("regions", "names") if asked[key]]


def group_settings(wildcards):
    """What a comparison of groups has to know about the study."""
    label = models[wildcards.model]["label"] or wildcards.model
    named = {"dataset": wildcards.dataset, "model": label, "simulated": config["simulated"]}
    return {**named, **config["datasets"][wildcards.dataset]["groups"], "resamples": config["comparison"]["resamples"]}
