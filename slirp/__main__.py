"""`python -m slirp` is the console script `pyslirp`."""

from slirp.cli import console

if __name__ == "__main__":
    console()
