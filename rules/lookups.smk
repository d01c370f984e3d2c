"""What rules look up about models, tables and figures."""

TRUNK = ROOT / "resources/lpips/alexnet_features.safetensors"
chosen = config["scoring"]["trunk"]
perceptual_trunk = TRUNK if chosen == "alex" else f"results/trunk/{chosen}.safetensors"


def training_samples(wildcards):
    """The sample sets that models are trained on."""
    return [name for dataset in config["training"]["datasets"] for name in sample_set(dataset)]


def upstream_model(wildcards):
    """The weights of the model that this one requires, trained with the same seed."""
    required = models[wildcards.model]["requires"]
    return [f"results/train/{required}/{wildcards.seed}/model.safetensors"] if required else []


def initial_weights(wildcards):
    """The weights that a model begins with, and their description."""
    weights = models[wildcards.model]["weights"]
    return [weights, str(Path(weights).with_suffix(".json"))] if weights else []


def training_trunk(wildcards):
    """The shipped trunk of the perceptual distance, for a model with a perceptual term."""
    return [ancient(TRUNK)] if models[wildcards.model]["params"].get("perceptual_term") else []


def scan_source(wildcards):
    """What decides which scans a dataset has and how they are split: what else it says of them cuts none anew."""
    entry = config["datasets"][wildcards.dataset]
    groups = {"reference": entry["groups"]["reference"]} if entry["groups"] else None
    return {**{key: entry[key] for key in ("manifest", "phantom", "split")}, "groups": groups}


def preprocessing_settings(wildcards):
    """The preprocessing section without the size of a job, which changes no scan."""
    return {key: value for key, value in config["preprocessing"].items() if key != "scans_per_job"}


def training_settings(wildcards):
    """What decides a model's weights: its entry without its label, the training section without what does not.

    `samples` and `preprocessing` go into the model's description: they say how images for it are made. `code` is the
    hash of the model's file: editing it trains that model again, touching it does not.
    """
    entry, section = models[wildcards.model], config["training"]
    unused = {"label", "augmentation", "weights"}
    if is_floor(entry):
        unused |= {"batch_size", "epochs", "lr", "min_lr", "warmup_epochs"}
    elsewhere = ("datasets", "seeds", "launcher", "gpus", "nodes")  # names, and where a training runs
    training = {key: value for key, value in section.items() if key not in elsewhere}
    return {
        **{key: value for key, value in entry.items() if key not in unused},
        "training": {**training, "augmentation": entry["augmentation"] or training["augmentation"]},
        "samples": config["samples"],
        "preprocessing": preprocessing_settings(wildcards),
        "code": model_digest(entry["class"]),
    }


def healthy_score(wildcards):
    """The maps of the images that a synthetic dataset's anomalies were put into."""
    source = config["datasets"][wildcards.dataset]["from"]
    return [f"results/score/{{model}}/{{seed}}/{source}/{name}" for name in ("map.npy", "table.tsv") if source]


def healthy_samples(wildcards):
    """Those images themselves."""
    source = config["datasets"][wildcards.dataset]["from"]
    return sample_set(source) if source else []


def measured(ending):
    """One file of each model, seed and dataset that rule `metrics` writes, always in the same order."""
    return collect(
        f"results/metrics/{{model}}/{{seed}}/{{dataset}}{ending}", model=models, seed=seeds, dataset=ordinary
    )


def figure_datasets():
    """The healthy and the anomalous dataset that the qualitative figure shows, a grid only if there is nothing else
    synthetic; without synthetic ones, the first and the last."""
    names = list(config["datasets"])
    ordered = sorted(synthetic_datasets, key=grids.__contains__)
    synthetic = [[config["datasets"][name]["from"], name] for name in ordered]
    return synthetic[0] if synthetic else [names[0], names[-1]]


def table_settings(wildcards):
    """What the comparison has to know about the study."""
    labels = {name: {"label": entry["label"] or name, "floor": is_floor(entry)} for name, entry in models.items()}
    shared = {key: config[key] for key in ("study", "simulated")}
    return {**shared, **config["comparison"], "datasets": ordinary, "models": labels}


def figure_settings(wildcards):
    """What the figures have to know about the study."""
    healthy, anomalous = figure_datasets()
    labels = {name: entry["label"] or name for name, entry in models.items()}
    return {"healthy": healthy, "anomalous": anomalous, "models": labels, "simulated": config["simulated"]}


def response_figures():
    """The figures of all grids of anomalies."""
    measures = ["average_precision", "detection"]
    return collect("results/figures/response_{measure}_{dataset}.png", measure=measures, dataset=grids)


def response_settings(wildcards):
    """What the figures of a grid have to know about the study."""
    labels = {name: entry["label"] or name for name, entry in models.items()}
    return {"models": labels, "simulated": config["simulated"]}


def report_settings(wildcards):
    """What the report has to know about the study; it shows the whole configuration."""
    return {**table_settings(wildcards), "datasets": list(config["datasets"]), "seeds": seeds, "configuration": config}
