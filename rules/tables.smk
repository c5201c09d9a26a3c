# Every table: Table 1, of all rows or of one, finished or not, and those that the configuration names.
TABLE = (
    "python -m dsr.commands.table --spec {params.spec:q} --metrics {params.metrics} --cost {params.cost}"
    " --variants {params.variants} --chosen {params.chosen} --markdown {output.markdown} --csv {output.csv}"
)


rule cost:
    output:
        "<results>/rows/{row}/cost.json",
    log:
        "<logs>/cost/{row}.log",
    conda:
        "../envs/torch.yaml"
    params:
        spec=lambda wildcards: spec_json(CONFIG.model(wildcards.row)),
    shell:
        "python -m dsr.commands.cost --spec {params.spec:q} --output {output} > {log} 2>&1"


rule table:
    input:
        table1_files(CONFIG.rows),
        row_costs(CONFIG.rows).values(),
    output:
        html=report(
            "<results>/table1.html",
            category="1. Results",
            labels={"result": "Table 1"},
            caption="../docs/captions/table1.rst",
        ),
        markdown="<results>/table1.md",
        csv="<results>/table1.csv",
        latex="<results>/table1.tex",
    log:
        "<logs>/table1.log",
    localrule: True
    conda:
        "../envs/torch.yaml"
    params:
        spec=report_specs.table(CONFIG).model_dump_json(),
        metrics=keyed_files(metrics_files(CONFIG.rows)),
        cost=keyed_files(row_costs(CONFIG.rows)),
        variants=keyed_files(variant_files(CONFIG.rows)),
        chosen=keyed_files(chosen_files(CONFIG.rows)),
        edition=TABLE_EDITION,
    shell:
        f"{TABLE}"
        " --latex {output.latex} --html {output.html} > {log} 2>&1"
        f" && echo {TABLE_EDITION} > {LAST_EDITION}"


# Whatever has been measured so far, as it is on disk. Metrics are no input of this rule: as inputs that are out of date
# they would be made again, and asking what is there must never train anything.
rule partial_table:
    input:
        row_costs(CONFIG.rows).values(),
    output:
        html=report(
            "<results>/table1-partial.html",
            category="1. Results",
            labels={"result": "Table 1, as far as measured"},
            caption="../docs/captions/table1.rst",
        ),
        markdown="<results>/table1-partial.md",
        csv="<results>/table1-partial.csv",
    log:
        "<logs>/table1-partial.log",
    conda:
        "../envs/torch.yaml"
    params:
        spec=report_specs.table(
            CONFIG,
            commands={
                key: f"{command_with()} {in_results(path)}"
                for key, path in metrics_files(CONFIG.rows).items()
            },
        ).model_dump_json(),
        metrics=keyed_files(metrics_files(CONFIG.rows)),
        cost=keyed_files(row_costs(CONFIG.rows)),
        variants=keyed_files(variant_files(CONFIG.rows)),
        chosen=keyed_files(chosen_files(CONFIG.rows)),
        # A result that is new, or gone, makes the table again.
        present=existing_files,
    shell:
        f"{TABLE}" " --html {output.html} > {log} 2>&1"


rule row_table:
    input:
        lambda wildcards: table1_files([wildcards.row]),
        "<results>/rows/{row}/cost.json",
    output:
        markdown="<results>/rows/{row}/table1.md",
        csv="<results>/rows/{row}/table1.csv",
        latex="<results>/rows/{row}/table1.tex",
    log:
        "<logs>/table1-{row}.log",
    conda:
        "../envs/torch.yaml"
    params:
        spec=lambda wildcards: report_specs.table(
            CONFIG, [wildcards.row]
        ).model_dump_json(),
        metrics=lambda wildcards: keyed_files(metrics_files([wildcards.row])),
        cost=lambda wildcards: keyed_files(row_costs([wildcards.row])),
        variants=lambda wildcards: keyed_files(variant_files([wildcards.row])),
        chosen=lambda wildcards: keyed_files(chosen_files([wildcards.row])),
    shell:
        f"{TABLE}" " --latex {output.latex} > {log} 2>&1"


# The configuration's `tables`.
rule comparison:
    input:
        lambda wildcards: comparison_files(wildcards.table).values(),
        lambda wildcards: comparison_variants(wildcards.table).values(),
        lambda wildcards: row_costs(comparison_rows(wildcards.table)).values(),
    output:
        html=report(
            "<results>/tables/{table}.html",
            category="1. Results",
            labels={"result": "Table: {table}"},
            caption="../docs/captions/comparison.rst",
        ),
        markdown="<results>/tables/{table}.md",
        csv="<results>/tables/{table}.csv",
        latex="<results>/tables/{table}.tex",
    log:
        "<logs>/tables/{table}.log",
    wildcard_constraints:
        table=one_of(CONFIG.tables),
    localrule: True
    conda:
        "../envs/torch.yaml"
    params:
        spec=comparison_spec,
        metrics=lambda wildcards: keyed_files(comparison_files(wildcards.table)),
        cost=lambda wildcards: keyed_files(row_costs(comparison_rows(wildcards.table))),
        variants=lambda wildcards: keyed_files(comparison_variants(wildcards.table)),
        chosen="",
    shell:
        f"{TABLE}" " --latex {output.latex} --html {output.html} > {log} 2>&1"


# The same of what has been measured so far; like `partial_table` it trains nothing.
use rule comparison as partial_comparison with:
    input:
        lambda wildcards: row_costs(comparison_rows(wildcards.table)).values(),
    output:
        html="<results>/tables/{table}-partial.html",
        markdown="<results>/tables/{table}-partial.md",
        csv="<results>/tables/{table}-partial.csv",
        latex="<results>/tables/{table}-partial.tex",
    log:
        "<logs>/tables/{table}-partial.log",
    params:
        present=existing_comparison,
