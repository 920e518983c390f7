"""Runs side by side: a table with seeds folded, differences with intervals, curves, panels. Imports no torch."""

from fcn.comparison.collect import ComparisonError
from fcn.comparison.comparison import Comparison, Contrast, compare, contrast
from fcn.comparison.files import write_comparison

__all__ = ["Comparison", "ComparisonError", "Contrast", "compare", "contrast", "write_comparison"]
