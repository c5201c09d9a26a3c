"""Make what stands in for a download in the demo, besides the evaluator's graph: images, an encoder, or a decoder."""

from dsr.base.command import command
from dsr.demo.digits import write_decoder, write_digits
from dsr.demo.encoder import write_encoder

if __name__ == "__main__":
    command(digits=write_digits, encoder=write_encoder, decoder=write_decoder)()
