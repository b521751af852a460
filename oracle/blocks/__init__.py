"""Block formats: quantise, dequantise, and every admissible result of both."""

from oracle.blocks.admissible import Quantised, admissible_blocks
from oracle.blocks.grouped import grouped_dequantize, grouped_quantize
from oracle.blocks.presets import PRESETS, preset
from oracle.blocks.quantize import dequantize, quantize
from oracle.blocks.uncertain import quantize_tap

__all__ = [
    "PRESETS", "Quantised", "admissible_blocks", "dequantize", "grouped_dequantize",
    "grouped_quantize", "preset", "quantize", "quantize_tap",
]  # fmt: skip
