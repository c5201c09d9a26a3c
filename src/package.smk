# Snakemake puts the folder of every file that it includes in front of Python's path: with this one, the rules import the
# package of this checkout, whatever else is installed.
