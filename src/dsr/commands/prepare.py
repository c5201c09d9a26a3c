"""Prepare images: crop an ImageFolder into shards (one job each) and index them, or list it; collect a reference."""

from dsr.base.command import command
from dsr.data.prepare import index_folder, write_index, write_reference, write_shard

if __name__ == "__main__":
    command(shard=write_shard, index=write_index, folder=index_folder, reference=write_reference)()
