"""Measure this framework against plain PyTorch and torchvision, alternately on this machine: ratios with quartiles."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # folder of the package `benchmarks`

from benchmarks.command import main

if __name__ == "__main__":
    main()
