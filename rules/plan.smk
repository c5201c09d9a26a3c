# What all of it will cost, before anything is run: `snakemake --cores 1 plan` writes and shows it. It needs neither
# data nor a GPU, and runs in Snakemake's own environment (hence `run`), so that none has to be built first.
rule plan:
    log:
        "<logs>/plan.log",
    localrule: True
    params:
        python=sys.executable,
        spec=CONFIG.model_dump_json(),
        # No output: it is shown every time.
        file=f"{CONFIG.results}/plan.md",
        measured=rehearsal_option(),
    run:
        shell(
            "{params.python:q} -m dsr.commands.plan --spec {params.spec:q} --output {params.file:q} {params.measured:q} 2> {log:q}"
            " && cat {params.file:q}"
        )
