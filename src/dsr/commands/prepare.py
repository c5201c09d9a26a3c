"""Prepare images for training: crop an ImageFolder into shards (one job each) and index them, or list it as it is."""

from dsr.base.command import command
from dsr.data.prepare import index_folder, write_index, write_shard

main = command(shard=write_shard, index=write_index, folder=index_folder)

if __name__ == "__main__":
    main()
