# What `--profile profiles/demo` runs: the workflow on handwritten digits. The profile names this file and no `configfile`,
# because one on the command line would take the profile's place, and plan the paper.
include: "Snakefile"
