"""Evaluate a trained run on a split: whole images at native size, each exactly once."""

from fcn.cli.evaluate import main

if __name__ == "__main__":
    main()
