# cython: language_level=3
"""What our TCP sends: data from the send queue, acknowledgements, windows, SYN, FIN and RST.

`tcp_output` decides by itself what is due; whoever changes a connection only calls `touch`. A data
frame carries up to 64 KiB of payload, gathered from the queue without a copy, and the guest's
kernel takes it whole (gso_size tells it the segment size). Nothing is sent beyond the guest's
window except what RFC 9293 3.8.6.1 wants as a probe.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from .conn cimport Flow, TcpConn
from .ctx cimport Ctx
from .seq cimport seq_t
from .tcp_wire cimport Segment


cdef bint tcp_output(Ctx *c, Flow *flow) noexcept nogil
cdef void tcp_send_syn(Ctx *c, Flow *flow) noexcept nogil
cdef void tcp_send_ack(Ctx *c, Flow *flow) noexcept nogil
cdef bint tcp_send_override(Ctx *c, Flow *flow) noexcept nogil
cdef void tcp_send_probe(Ctx *c, Flow *flow, bint keepalive) noexcept nogil
cdef void tcp_challenge_ack(Ctx *c, Flow *flow) noexcept nogil
cdef void tcp_send_rst(Ctx *c, Flow *flow) noexcept nogil
cdef void tcp_send_rst_for(Ctx *c, const Segment *seg) noexcept nogil
cdef uint32_t tcp_unsent(const Flow *flow) noexcept nogil
cdef uint32_t tcp_send_room(const Flow *flow) noexcept nogil
cdef uint32_t tcp_clock_ts(Ctx *c, const TcpConn *t) noexcept nogil
cdef void tcp_init_sequence(Ctx *c, Flow *flow) noexcept nogil
