"""Make what stands in for a download in the demo or a rehearsal: images, an encoder, or a decoder."""

from dsr.base.command import command
from dsr.demo.made import write_decoder, write_encoder, write_images

if __name__ == "__main__":
    command(images=write_images, encoder=write_encoder, decoder=write_decoder)()
