"""Write a table or a model card, draw a figure, or record where the results come from."""

from dsr.base.command import command
from dsr.report.figures.kinds import draw
from dsr.report.provenance import write_provenance
from dsr.report.render import write_card, write_table

if __name__ == "__main__":
    command(table=write_table, card=write_card, figure=draw, provenance=write_provenance)()
