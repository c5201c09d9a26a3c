# Where the results come from.
def benchmark_files(wildcards):
    """Snakemake's record of the time that every job took, as 'stage:row:...=path'."""
    names = {f"statistics:{e}:{ttr}": f"statistics/{e}-{ttr}" for e, ttr in ENCODINGS}
    for row in CONFIG.rows:
        for epoch in CONFIG.epochs(row):
            names[f"train:{row}:{epoch}"] = f"train/{row}-{epoch}"
            for images in all_sets(row, epoch):
                job = f"{row}-{epoch}-{images}"
                names[f"sample:{row}:{epoch}:{images}"] = f"sample/{job}"
                names[f"evaluate:{row}:{epoch}:{images}"] = f"evaluate/{job}"
                for reference in OTHER_REFERENCES:
                    again = f"evaluate:{row}:{epoch}:{images}:{reference}"
                    names[again] = f"evaluate/{job}-{reference}"
    paths = [f"{CONFIG.results}/benchmarks/{name}.tsv" for name in names.values()]
    return keyed(names, paths)


def training_records(wildcards):
    """The trainer's own record of every row, as 'row=path'."""
    return keyed(TRAINED, [f"{state_folder(row)}/metrics.jsonl" for row in TRAINED])


rule provenance:
    input:
        "<results>/table1.md",
    output:
        json="<results>/provenance.json",
        html=report(
            "<results>/provenance.html",
            category="5. Provenance",
            labels={"result": "where these results come from"},
            caption="../docs/captions/provenance.rst",
        ),
        markdown="<results>/provenance.md",
    log:
        "<logs>/provenance.log",
    localrule: True
    conda:
        "../envs/torch.yaml"
    params:
        spec=CONFIG.model_dump_json(),
        source=workflow.basedir,
        benchmarks=benchmark_files,
        records=training_records,
        environments=[
            f"{workflow.basedir}/envs/{name}.yaml"
            for name in ("torch", "tensorflow", "workflow")
        ],
    shell:
        "python -m dsr.commands.provenance --spec {params.spec:q} --source {params.source:q}"
        " --benchmarks {params.benchmarks} --records {params.records} --environments {params.environments:q}"
        " --json {output.json} --markdown {output.markdown} --html {output.html} > {log} 2>&1"
