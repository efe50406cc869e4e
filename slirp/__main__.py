"""`python -m slirp` is the console script `pyslirp`."""

import sys

from slirp.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
