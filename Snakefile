# Dual-Stage Registers, reproduced: one target, `results/table1.md`, pulls the whole graph.
#
# <results>/data/         images, raw and prepared          <results>/rows/{row}/    weights, samples, metrics of a row
# <results>/encoders/     encoders and register neurons     <results>/figures/       every figure
# <results>/latents/      latent statistics                 <results>/table1.md      the table
from pathlib import Path

from snakemake.utils import min_version

min_version("9.14")


configfile: "config.yaml"


DEMO = Path(workflow.main_snakefile).name == "Snakefile.demo"
if DEMO:

    configfile: "profiles/demo/config-overlay.yaml"


report: "docs/captions/workflow.rst"


include: "src/package.smk"
include: "rules/common.smk"
include: "rules/sets.smk"
include: "rules/results.smk"
include: "rules/manifest.smk"


if REHEARSAL:

    include: "rules/rehearsal.smk"

elif CONFIG.stand_ins:

    include: "rules/demo.smk"

else:

    include: "rules/artifacts.smk"


include: "rules/data.smk"
include: "rules/encoder.smk"
include: "rules/train.smk"
include: "rules/sample.smk"
include: "rules/reconstruct.smk"
include: "rules/evaluate.smk"
include: "rules/figures.smk"
include: "rules/tables.smk"
include: "rules/weights.smk"
include: "rules/models.smk"
include: "rules/report.smk"
include: "rules/plan.smk"
include: "rules/status.smk"


rule all:
    default_target: True
    input:
        "<results>/table1.md",
        expand("<results>/tables/{table}.md", table=[*CONFIG.tables, "reconstruction"]),
        ["<results>/tables/backbones.md"] * (len(BACKBONES) > len(RECONSTRUCTIONS)),
        "<results>/provenance.md",
        figures,
    localrule: True
