"""Fetch one artifact of the manifest, or check and link to your own copy of it."""

from dsr.artifacts.fetch import fetch
from dsr.base.command import command

if __name__ == "__main__":
    command(fetch)()
