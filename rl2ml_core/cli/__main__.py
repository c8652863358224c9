"""`python -m rl2ml_core.cli`."""

from rl2ml_core.cli import main

main()
