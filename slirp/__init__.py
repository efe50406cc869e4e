"""pyslirp: user-mode networking for rootless containers."""

__version__ = "0.1.0"
