"""What takes how long, each against a reference that runs in turns with it in the same process.

`scripts/benchmark.py` is the command. A module per benchmark: `measure(settings)` gives what it found. Times differ
from machine to machine and from hour to hour; what is judged are ratios, with the spread of the rounds beside them.
"""
