# Every table: Table 1, of all rows or of one, finished or not, and those that the configuration names.
from typing import NamedTuple


class Table(NamedTuple):
    """A table, or one for each of its wildcards."""

    file: str
    """Name without ending."""
    result: str
    """What the report calls it."""
    caption: str
    entries: list[Entry]
    """What it shows; where {row} is in its name, those of that row."""
    made: str = "metrics chosen"
    """Files of these entries that are made first. A table without any shows what has been measured so far, as it is on
    disk: as inputs that are out of date files would be made again, and asking what is there must never train anything."""
    fields: str = f"{SCORE_FIELDS} encoder ttr run"
    """What it needs of these entries."""
    step: str = "table"
    options: list[str] = []
    """Step and options of the command that writes it."""


# By the name of the rule.
TABLES = {
    "row_table": Table("rows/{row}/table1", "Table 1, {row}", "table1", reported(CONFIG.rows)),
    "table": Table("table1", "Table 1", "table1", reported(CONFIG.rows)),
    **{
        f"table_{name}": Table(
            f"tables/{name}", f"Table: {name}", "comparison", table_entries(name), options=["--table", name]
        )
        for name in CONFIG.tables
    },
    "reconstruction_table": Table(
        "tables/reconstruction", "Table: reconstruction", "reconstruction-table", RECONSTRUCTIONS, step="reconstruction"
    ),
    "backbones_table": Table(
        "tables/backbones",
        "Table: encoders side by side",
        "backbones",
        BACKBONES,
        "metrics maps",
        "row epoch seed encoder ttr metrics maps",
        "backbones",
        rehearsal_option(),
    ),
}

for name in ("table", *(f"table_{name}" for name in CONFIG.tables)):
    TABLES[f"partial_{name}"] = TABLES[name]._replace(
        file=f"{TABLES[name].file}-partial", result=f"{TABLES[name].result}, as far as measured", made=""
    )

for name, table in TABLES.items():

    rule:
        name:
            name
        input:
            lambda wildcards, table=table: table_files(matching(table.entries, wildcards), *table.made.split()),
            config=config_file,
            missing=missing_metrics if name == "table" else [],
        output:
            multiext(f"<results>/{table.file}", markdown=".md", csv=".csv", latex=".tex"),
            html=report(
                f"<results>/{table.file}.html",
                category="1. Results",
                labels={"result": table.result},
                caption=f"../docs/captions/{table.caption}.rst",
            ),
        log:
            f"<logs>/{table.file}.log",
        localrule: True
        conda:
            "../envs/torch.yaml"
        params:
            step=table.step,
            options=table.options,
            entries=lambda wildcards, table=table: entries_json(
                matching(table.entries, wildcards), *table.fields.split()
            ),
            # A result that is new, or gone, makes a partial table again.
            present=lambda wildcards, table=table: (
                "" if table.made else times_written(files_of(table.entries, "metrics"))
            ),
        shell:
            "python -m dsr.commands.report {params.step} --config {input.config:q} --entries {params.entries:q}"
            " {params.options:q} --markdown-file {output.markdown:q} --csv {output.csv:q} --html {output.html:q}"
            " --latex-file {output.latex:q} > {log:q} 2>&1"
