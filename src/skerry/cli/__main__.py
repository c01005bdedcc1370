"""`python -m skerry.cli`: how the launcher starts its own commands, with the interpreter that it runs in."""

import sys

from skerry.cli import main

if __name__ == "__main__":
    sys.exit(main())
