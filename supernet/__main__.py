"""`python -m supernet` is the command `supernet`."""

from supernet.cli.app import main

main()
