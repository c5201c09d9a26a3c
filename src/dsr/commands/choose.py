"""Choose the guidance with the lowest FID among those that a sweep tried."""

from dsr.base.command import command
from dsr.sampling.choose import choose

if __name__ == "__main__":
    command(choose)()
