"""
Hold patients against controls, without masks: by the calibrated maps of one model.

inputs    results/maps/{dataset}/{model}/seed-{seed}/       from maps.smk
          an atlas in template space, with `groups.regions`
outputs   results/groups/{dataset}/{model}/{seed}/          mean map of each group, effect and what is found; tables of groups,
                                                            regions, subjects, balance and notes; a picture
"""


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
