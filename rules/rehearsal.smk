# What a rehearsal is for, and its page (profiles/rehearsal, docs/planning.md).
rule rehearsal_page:
    input:
        lambda wildcards: files_of(REHEARSED, "metrics"),
    output:
        markdown="<results>/rehearsal.md",
        html=report(
            "<results>/rehearsal.html",
            category="1. Results",
            labels={"result": "rehearsal"},
            caption="../docs/captions/rehearsal.rst",
        ),
        measured="<results>/throughput.csv",
    log:
        "<logs>/rehearsal.log",
    localrule: True
    conda:
        "../envs/torch.yaml"
    params:
        config=CONFIG.model_dump_json(),
        rows=rehearsed_json,
    shell:
        "python -m dsr.commands.report rehearsal --config {params.config:q} --rows {params.rows:q}"
        " --markdown-file {output.markdown:q} --html {output.html:q} --measured {output.measured:q} > {log:q} 2>&1"
        " && cat {output.markdown:q}"


# Everything that a rehearsal is for: `all`, whose figures need token maps of every row, takes longer.
rule rehearsal:
    input:
        "<results>/rehearsal.md",
        "<results>/table1.md",
        "<results>/tables/reconstruction.md",
        "<results>/provenance.md",
        expand("<results>/figures/{name}.png", name=["samples", "training", "fid"]),
    localrule: True
