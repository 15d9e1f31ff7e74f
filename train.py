"""Train a supernet: `python train.py experiment=demo`, `python train.py --help`."""

from supernet.cli.train import main

if __name__ == "__main__":
    main()
