# cython: language_level=3
"""TCP's timers: retransmission (RFC 6298), persist (RFC 9293 3.8.6.1), delayed ACK, keep-alive, and
the deadlines of states.

A connection has one node in the wheel. The fields `*_due_us` say when something is due; the node is
armed for the nearest, or earlier: when a deadline moves away, as RTO does with every ACK, the node
stays and finds on firing that nothing is due. So an ACK costs no wheel operation.
"""
from libc.stdint cimport uint32_t

from .conn cimport Flow, TcpConn
from .ctx cimport Ctx
from .wire cimport usec_t


cdef void tcp_arm(Ctx *c, Flow *flow) noexcept nogil
cdef void tcp_on_timer(Ctx *c, Flow *flow) noexcept nogil
cdef void tcp_rtt_sample(TcpConn *t, usec_t rtt_us) noexcept nogil
cdef void tcp_rto_reset(TcpConn *t) noexcept nogil
