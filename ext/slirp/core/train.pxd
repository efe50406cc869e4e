# cython: language_level=3
"""Trains of datagrams: what follows one another within a batch and is alike travels as one.

A datagram costs a system call each way, and a walk through two kernels; a train of them (GSO) costs
that once. So the guest's datagrams of one mapping that go to one destination are held until the
batch of frames is over, and leave by one UDP_SEGMENT; and what a host's socket has waiting from one
source enters the guest as one USO frame, where the guest's kernel cuts those. All of a train have
one size, but for the last, which may be shorter; order is kept. Nobody waits: what is held leaves
before connections are served.

A frame whose headers are those of the train's first, but for lengths, identification and checksum,
belongs to the same flow and has passed the same checks: it is held without another walk through the
layers, for a quarter of the instructions.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from .conn cimport Flow
from .ctx cimport Ctx
from .hostops cimport Datagram
from .stats cimport Drop
from .wire cimport Addr, IpHdr


cdef struct Arrivals:               # of one socket, in Ctx.scratch
    Flow *flow                      # whose train is being put together; NULL: none
    Addr src                        # as the guest is to see it
    uint16_t src_port
    Datagram datagram               # the train: segment_bytes is the first one's length
    uint32_t used                   # bytes of the scratch buffer, behind its headroom
    uint32_t taken                  # bytes in all: at a bound others have their turn


cdef Drop train_refuse(Ctx *c, const IpHdr *ip, int error) noexcept nogil
cdef Drop train_depart(Ctx *c, Flow *flow, const IpHdr *ip,
                       const Datagram *datagram) noexcept nogil
cdef void train_departed(Ctx *c) noexcept nogil
cdef bint train_join(Ctx *c, const uint8_t *frame, uint32_t n) noexcept nogil
cdef bint train_receive(Ctx *c, int fd, Arrivals *a, Datagram *datagram) noexcept nogil
cdef void train_arrive(Ctx *c, Arrivals *a, Flow *flow, const Addr *src, uint16_t src_port,
                       const Datagram *datagram) noexcept nogil
cdef void train_arrived(Ctx *c, Arrivals *a) noexcept nogil


cdef inline bint train_receive_one(Ctx *c, int fd, Datagram *datagram) noexcept nogil:
    """A datagram that stays by itself: train_arrive_one, or nothing, comes next."""
    cdef Arrivals a
    a.flow = NULL
    a.used = 0
    a.taken = 0
    return train_receive(c, fd, &a, datagram)


cdef inline void train_arrive_one(Ctx *c, Flow *flow, const Addr *src, uint16_t src_port,
                                  const Datagram *datagram) noexcept nogil:
    cdef Arrivals a
    a.flow = NULL
    a.used = 0
    train_arrive(c, &a, flow, src, src_port, datagram)
    train_arrived(c, &a)
