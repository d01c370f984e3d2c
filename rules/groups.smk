"""
Hold patients against controls, without masks: by the calibrated maps of one model.

inputs    results/maps/{dataset}/{model}/seed-{seed}/       from maps.smk
          an atlas in template space, with `groups.regions`
outputs   results/groups/{dataset}/{model}/{seed}/          mean map of each group, effect and what is found; tables of groups,
                                                            regions, subjects, balance and notes; a picture
"""

from brainuad.grouping import check_all_groups

try:
    check_all_groups(left, config["datasets"], config["seed"])
except ValueError as error:
    raise WorkflowError(str(error)) from None


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


rule groups:
    """Compare the groups of a dataset, voxel by voxel, region by region and subject by subject."""
    input:
        table="results/maps/{dataset}/{model}/seed-{seed}/table.tsv",
        atlas=atlas_files,
    output:
        folder=directory("results/groups/{dataset}/{model}/{seed}/maps"),
        groups="results/groups/{dataset}/{model}/{seed}/groups.tsv",
        regions="results/groups/{dataset}/{model}/{seed}/regions.tsv",
        subjects="results/groups/{dataset}/{model}/{seed}/subjects.tsv",
        balance="results/groups/{dataset}/{model}/{seed}/balance.tsv",
        notes="results/groups/{dataset}/{model}/{seed}/notes.tsv",
        picture=report(
            "results/groups/{dataset}/{model}/{seed}/groups.png",
            caption="report/groups.rst",
            category="Groups",
            labels={"dataset": "{dataset}", "model": "{model}", "seed": "{seed}"},
        ),
    log:
        "results/logs/groups/{dataset}/{model}/{seed}.log",
    benchmark:
        "results/benchmarks/groups/{dataset}/{model}/{seed}.tsv"
    conda:
        "../envs/imaging.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(by_scan(15, MINUTES_TO_READ)),
    params:
        settings=group_settings,
    script:
        "../scripts/groups.py"
