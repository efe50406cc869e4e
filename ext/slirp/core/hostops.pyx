# cython: language_level=3
"""The base of what a Stack can be put on: see hostops.pxd."""


cdef class Host:
    """Tables of calls that a subclass has filled."""
