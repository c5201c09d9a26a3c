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


PARTS = "sets results manifest weights data encoder train sample evaluate figures tables models report plan status"
# What the images go through: made, in the demo and in rehearsals, or fetched.
ORIGIN = "stand_ins" if REHEARSAL or CONFIG.stand_ins else "artifacts"

for part in [*PARTS.split(), ORIGIN, *["rehearsal"] * REHEARSAL]:

    include: f"rules/{part}.smk"


rule all:
    default_target: True
    input:
        "<results>/table1.md",
        expand("<results>/tables/{table}.md", table=[*CONFIG.tables, "reconstruction"]),
        ["<results>/tables/backbones.md"] * (len(BACKBONES) > len(RECONSTRUCTIONS)),
        "<results>/provenance.md",
        drawn(*(name for name in FIGURES if FIGURES[name].made)),
    localrule: True
