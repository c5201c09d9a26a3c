"""Imported by the server of Snakemake processes: finds all plugins and their options once."""

from snakemake.cli import get_argument_parser

get_argument_parser()
