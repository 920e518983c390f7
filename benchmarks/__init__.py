"""Speed and memory against references that run alternately in the same process; run by `scripts/benchmark.py`.

Every benchmark is a function `measure_<name>(settings)` that returns results. Times vary between machines and
over time, so compare the ratios; their spread over the rounds is reported.
"""
