"""Write the overlay that trains on a folder of your own images."""

from dsr.base.command import command
from dsr.plan.own_images import write_overlay

if __name__ == "__main__":
    command(write_overlay)()
