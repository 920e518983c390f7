"""Runs side by side: a table with seeds folded, differences with intervals, curves, panels. Imports no torch."""

from fcn.comparison.comparison_files import write_comparison
from fcn.comparison.contrasts import Comparison, Contrast, compare, contrast
from fcn.comparison.run_collection import ComparisonError

__all__ = ["Comparison", "ComparisonError", "Contrast", "compare", "contrast", "write_comparison"]
