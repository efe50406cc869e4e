# cython: language_level=3
"""Scripts: three bytes of settings, then operations until the bytes end; then the world ends, in
one of several ways, and nothing may be left of it.

The lower six bits of an operation's first byte choose it (OPS); with its highest bit the batch goes
on: the stack is served after the next one. Every byte string is a script.
"""
from libc.stdint cimport uint8_t

from .fuzz cimport World


cdef const char *fuzz_run(const uint8_t *script, size_t n) except? NULL
