"""Search for the settings of the best validation mIoU; every trial is a run directory."""

from fcn.cli.tune import main

if __name__ == "__main__":
    main()
