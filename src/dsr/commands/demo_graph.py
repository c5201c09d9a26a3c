"""Make what stands in for the evaluator's graph in the demo; unlike the rest of the demo it needs TensorFlow."""

from dsr.base.command import command
from dsr.demo.graph import write_graph

if __name__ == "__main__":
    command(write_graph)()
