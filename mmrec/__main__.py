"""``python -m mmrec``."""

from mmrec.cli import main

main()
