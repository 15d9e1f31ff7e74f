"""`python -m supernet` is the command `supernet`."""

from supernet.cli import main

main()
