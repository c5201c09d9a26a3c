# Where the results come from.
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
