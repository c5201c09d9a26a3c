# Every table: Table 1, of all rows or of one, finished or not, and those that the configuration names.
TABLE_FILES = (
    " --config {input.config:q} --entries {params.entries:q} {params.table}"
    " --markdown-file {output.markdown:q} --csv {output.csv:q} --html {output.html:q} --latex-file {output.latex:q}"
    " > {log:q} 2>&1"
)

TABLE = f"python -m dsr.commands.report table{TABLE_FILES}"


rule row_table:
    input:
        lambda wildcards: files_of(reported([wildcards.row]), "metrics", "chosen"),
        config=config_file,
    output:
        multiext(
            "<results>/rows/{row}/table1", markdown=".md", csv=".csv", latex=".tex"
        ),
        html="<results>/rows/{row}/table1.html",
    log:
        "<logs>/table1-{row}.log",
    localrule: True
    conda:
        "../envs/torch.yaml"
    params:
        entries=lambda wildcards: table_json(reported([wildcards.row])),
        table="",
    shell:
        TABLE


use rule row_table as table with:
    input:
        TABLE1_FILES,
        config=config_file,
        missing=missing_metrics,
    output:
        multiext("<results>/table1", markdown=".md", csv=".csv", latex=".tex"),
        html=report(
            "<results>/table1.html",
            category="1. Results",
            labels={"result": "Table 1"},
            caption="../docs/captions/table1.rst",
        ),
    log:
        "<logs>/table1.log",
    params:
        entries=table_json(reported(CONFIG.rows)),


# Whatever has been measured so far, as it is on disk. Metrics are no input of this rule: as inputs that are out of date
# they would be made again, and asking what is there must never train anything.
use rule row_table as partial_table with:
    input:
        config=config_file,
    output:
        multiext("<results>/table1-partial", markdown=".md", csv=".csv", latex=".tex"),
        html=report(
            "<results>/table1-partial.html",
            category="1. Results",
            labels={"result": "Table 1, as far as measured"},
            caption="../docs/captions/table1.rst",
        ),
    log:
        "<logs>/table1-partial.log",
    params:
        entries=table_json(reported(CONFIG.rows), "run"),
        # A result that is new, or gone, makes the table again.
        present=lambda wildcards: written(reported(CONFIG.rows)),


# The configuration's `tables`.
use rule row_table as comparison with:
    input:
        lambda wildcards: table_files(table_entries(wildcards.table), "metrics"),
        config=config_file,
    output:
        multiext("<results>/tables/{table}", markdown=".md", csv=".csv", latex=".tex"),
        html=report(
            "<results>/tables/{table}.html",
            category="1. Results",
            labels={"result": "Table: {table}"},
            caption="../docs/captions/comparison.rst",
        ),
    log:
        "<logs>/tables/{table}.log",
    wildcard_constraints:
        table=one_of(CONFIG.tables),
    params:
        entries=lambda wildcards: table_json(table_entries(wildcards.table), "run"),
        table="--table {table}",


# The same of what has been measured so far; like `partial_table` it trains nothing.
use rule comparison as partial_comparison with:
    input:
        config=config_file,
    output:
        multiext(
            "<results>/tables/{table}-partial",
            markdown=".md",
            csv=".csv",
            latex=".tex",
        ),
        html="<results>/tables/{table}-partial.html",
    log:
        "<logs>/tables/{table}-partial.log",
    params:
        present=lambda wildcards: written(table_entries(wildcards.table)),


rule reconstruction_table:
    input:
        files_of(RECONSTRUCTIONS, "metrics"),
        config=config_file,
    output:
        multiext(
            "<results>/tables/reconstruction",
            markdown=".md",
            csv=".csv",
            latex=".tex",
        ),
        html=report(
            "<results>/tables/reconstruction.html",
            category="1. Results",
            labels={"result": "Table: reconstruction"},
            caption="../docs/captions/reconstruction-table.rst",
        ),
    log:
        "<logs>/tables/reconstruction.log",
    localrule: True
    conda:
        "../envs/torch.yaml"
    params:
        entries=entries_json(RECONSTRUCTIONS, "encoder", "ttr", "metrics"),
        table="",
        step="reconstruction",
    shell:
        "python -m dsr.commands.report {params.step:q}" f"{TABLE_FILES}"


use rule reconstruction_table as backbones_table with:
    input:
        files_of(BACKBONES, "metrics"),
        files_of(BACKBONES[: len(RECONSTRUCTIONS)], "maps"),
        config=config_file,
    output:
        multiext(
            "<results>/tables/backbones",
            markdown=".md",
            csv=".csv",
            latex=".tex",
        ),
        html=report(
            "<results>/tables/backbones.html",
            category="1. Results",
            labels={"result": "Table: encoders side by side"},
            caption="../docs/captions/backbones.rst",
        ),
    log:
        "<logs>/tables/backbones.log",
    params:
        entries=entries_json(
            BACKBONES, "row", "epoch", "seed", "encoder", "ttr", "metrics", "maps"
        ),
        table="",
        step=["backbones", *rehearsal_option()],
