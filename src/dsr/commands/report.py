"""Write a table, a model card or a rehearsal's page, or record where the results come from."""

from dsr.base.command import command
from dsr.report.encoders import write_backbones, write_reconstruction
from dsr.report.provenance import write_provenance
from dsr.report.rehearsal import write_rehearsal
from dsr.report.render import write_card, write_table

if __name__ == "__main__":
    command(
        table=write_table,
        reconstruction=write_reconstruction,
        backbones=write_backbones,
        card=write_card,
        provenance=write_provenance,
        rehearsal=write_rehearsal,
    )()
