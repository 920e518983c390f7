"""Train a network: `python train.py key=value ...`; `python train.py --help` lists the keys."""

from fcn.cli.train import main

if __name__ == "__main__":
    main()
