"""Compares runs: a table with seeds folded, intervals, curves, classes, and the same images side by side."""

from fcn.cli.compare import main

if __name__ == "__main__":
    main()
