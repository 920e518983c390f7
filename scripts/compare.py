"""Compare runs: tables averaged over seeds, intervals, curves, classes, and predictions side by side."""

from fcn.cli.compare import main

if __name__ == "__main__":
    main()
