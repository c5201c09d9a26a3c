"""Publish one more of the moving averages that the trainer keeps of a milestone."""

from dsr.base.command import command
from dsr.training.checkpoint import publish

if __name__ == "__main__":
    command(publish)()
