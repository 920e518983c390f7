"""Comparison of runs: tables averaged over seeds, confidence intervals, figures and pages. Imports no torch."""
