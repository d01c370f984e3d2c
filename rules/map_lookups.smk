"""What the rules about maps as images look up."""


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


def calibration_settings(wildcards):
    """What a calibration has to know about the study; it goes along with the weights."""
    described = {key: config[key] for key in ("samples", "scoring", "quality", "simulated")}
    return {**described, "maps": {key: config["maps"][key] for key in ("smoothing", "minimum_subjects", "std_floor")}}


def map_settings(wildcards):
    """What the maps of a dataset have to know about the study."""
    named = {"dataset": wildcards.dataset, "model": wildcards.model, "scans_of": scans_of(wildcards.dataset)}
    return {**named, "simulated": config["simulated"], "pages": config["maps"]["pages"]}
