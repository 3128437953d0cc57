"""`python -m bnncc` is `bnncc`."""

from bnncc.cli import main

main()
