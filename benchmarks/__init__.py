"""Speed and memory against references that run alternately in the same process; run by `scripts/benchmark.py`.

Every benchmark is a function `measure_<name>(settings)` that returns results. Times differ between machines and
between hours: judge the ratios, whose spread over the rounds is reported.
"""
