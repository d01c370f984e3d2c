"""
Bring raw scans into template space and look at what came out.

inputs    results/sources/{dataset}/    the raw files of each job, listed as Snakemake starts; or results/phantom/ from data.smk
outputs   results/preprocess/{dataset}/        per scan: T1, brain mask, lesion mask, transforms, quality.json;
                                               per job: a table of its scans, with the reason of each that was set aside
          results/quality/{dataset}.tsv        the table that decides in or out
          results/quality/{dataset}.html,png   the same as a page, with the line that decides otherwise; a montage
          results/intake.tsv                   how many scans of each dataset are used, and why the others are not
steps     N4 bias correction, brain mask, affine registration to the template, intensity normalisation
"""

from brainuad.extractors import command_line, missing

extraction = config["preprocessing"]["brain_extraction"]
try:
    command_line(extraction)
except ValueError as error:
    raise WorkflowError(str(error)) from None

# Where jobs run elsewhere they may have the program, hence a warning; launcher.smk refuses what is to run here.
heads = any(config["datasets"][dataset]["skull_stripped"] is not True for dataset in scans)
missing_program = missing(extraction) if workflow.is_main_process and heads else ""
if missing_program:
    logger.warning(missing_program)


rule preprocess:
    """Preprocess the scans of one job; a bad scan is set aside and never stops the others."""
    input:
        raw_scans,
    output:
        "results/preprocess/{dataset}/chunk-{chunk}.tsv",
    log:
        "results/logs/preprocess/{dataset}/{chunk}.log",
    benchmark:
        "results/benchmarks/preprocess/{dataset}/{chunk}.tsv"
    conda:
        "../envs/imaging.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(by_scan(60, MINUTES)),
    params:
        scans=scan_rows,
        settings=preprocessing_settings,
    script:
        "../scripts/preprocess.py"


rule quality:
    """Gather the quality measures of a dataset, flag outliers, decide what is left out."""
    input:
        dataset_chunks,
    output:
        table="results/quality/{dataset}.tsv",
        montage=report(
            "results/quality/{dataset}.png",
            caption="report/quality_montage.rst",
            category="Quality control",
            labels={"dataset": "{dataset}", "show": "montage"},
        ),
        page=report(
            "results/quality/{dataset}.html",
            caption="report/quality_page.rst",
            category="Quality control",
            labels={"dataset": "{dataset}", "show": "page"},
        ),
    log:
        "results/logs/quality/{dataset}.log",
    benchmark:
        "results/benchmarks/quality/{dataset}.tsv"
    conda:
        "../envs/imaging.yaml"
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(by_scan(15, MINUTES_TO_READ)),
    params:
        settings=lookup("quality", within=config),
        simulated=lookup("simulated", within=config),
        heights=config["samples"]["positions"] if len(config["samples"]["size"]) == 2 else [],
        decisions=dataset_decisions,
    script:
        "../scripts/quality.py"


rule intake:
    """Count what of each dataset is used and why the rest is not; stop if a scan is in two datasets or splits."""
    input:
        quality=collect("results/quality/{dataset}.tsv", dataset=scans),
        left_out=searched(),
        manifests=manifests(),
    output:
        report(
            "results/intake.tsv",
            caption="report/intake.rst",
            category="Quality control",
            labels={"dataset": "all", "show": "table"},
        ),
    log:
        "results/logs/intake.log",
    benchmark:
        "results/benchmarks/intake.tsv"
    conda:
        "../envs/imaging.yaml"
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(15),
    params:
        datasets=lookup("datasets", within=config),
        seed=lookup("seed", within=config),
    script:
        "../scripts/intake.py"
