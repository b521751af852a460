"""Element formats: what a code means, and which code a value gets."""

from oracle.formats.codes import decode, encode
from oracle.formats.element import FORMATS, ElementFormat, get
from oracle.formats.rounding import round_to

__all__ = ["FORMATS", "ElementFormat", "decode", "encode", "get", "round_to"]
