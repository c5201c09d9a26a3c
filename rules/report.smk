# Where the results come from.
rule provenance:
    input:
        "<results>/table1.md",
        config=config_file,
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
        entries=entries_json(reported(CONFIG.rows), *SCORE_FIELDS.split()),
        source=workflow.basedir,
        times=times,
        environments=[f"{workflow.basedir}/envs/{name}.yaml" for name in ("torch", "tensorflow", "workflow")],
    shell:
        "python -m dsr.commands.report provenance --config {input.config:q} --entries {params.entries:q} --source {params.source:q}"
        " --times {params.times:q} --environments {params.environments:q} --json {output.json:q}"
        " --markdown-file {output.markdown:q} --html {output.html:q} > {log:q} 2>&1"
