"""Benchmark of unsupervised anomaly detection in brain MRI: from raw scans to the comparison table."""

from snakemake.utils import min_version

min_version("9.27")


configfile: "config/config.yaml"


report: "rules/report/workflow.rst"


include: "rules/common.smk"
include: "rules/lookups.smk"
include: "rules/map_lookups.smk"
include: "rules/resources.smk"
include: "rules/launcher.smk"
include: "rules/data.smk"
include: "rules/preprocess.smk"
include: "rules/samples.smk"
include: "rules/models.smk"
include: "rules/evaluate.smk"
include: "rules/compare.smk"
include: "rules/judge.smk"
include: "rules/response.smk"
include: "rules/maps.smk"
include: "rules/groups.smk"
include: "rules/costs.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        multiext("results/", "comparison.tsv", "significance.tsv", "report.html"),
        expand("results/{table}.{kind}", table=["table2", "strict"], kind=["md", "tex", "csv", "html"]),
        multiext("results/paper_difference", ".tsv", ".html") if published else [],
        multiext("results/figures/", "qualitative.png", "learning_curves.png"),
        response_figures() + map_tables(),
