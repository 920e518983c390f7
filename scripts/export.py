"""Export the network of a run as one file for other programs, verified against PyTorch."""

from fcn.cli.export import main

if __name__ == "__main__":
    main()
