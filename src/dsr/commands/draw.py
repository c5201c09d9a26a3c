"""Draw images of classes with trained weights: a grid, with the number of every image."""

from dsr.base.command import command
from dsr.sampling.draw import draw

if __name__ == "__main__":
    command(draw)()
