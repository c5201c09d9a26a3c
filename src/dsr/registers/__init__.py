"""Registers for any model: needs PyTorch alone (docs/registers.md)."""

from dsr.registers.diffusion import add_diffusion_registers
from dsr.registers.discovery import find_register_neurons, token_norms
from dsr.registers.layout import Layout
from dsr.registers.test_time import add_test_time_registers

__all__ = ["Layout", "add_diffusion_registers", "add_test_time_registers", "find_register_neurons", "token_norms"]
