"""Exact integer inference of a Relax QDQ module in NumPy: the compressor's verdicts and the tests' oracle.

Written from docs/semantics.md alone; shares no code with the kernels.
"""

from sgsc_micro.reference.interpreter import Interpreter, run, run_integers
from sgsc_micro.reference.values import Dequantised, Value

__all__ = ["Dequantised", "Interpreter", "Value", "run", "run_integers"]
