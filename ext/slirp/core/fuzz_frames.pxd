# cython: language_level=3
"""What the fuzzer's guest sends beside the segments of its connections: operations of a script,
each of which reads its own bytes.
"""
from .fuzz cimport World


cdef void op_raw(World *w) noexcept nogil
cdef void op_mutate(World *w) noexcept nogil
cdef void op_udp(World *w) noexcept nogil
cdef void op_icmp(World *w) noexcept nogil
cdef void op_datagram(World *w) noexcept nogil
cdef void op_arp(World *w) noexcept nogil
