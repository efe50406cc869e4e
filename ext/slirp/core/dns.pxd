# cython: language_level=3
"""DNS by UDP (RFC 1035 4.2.1) at the DNS address: each query is put to the host's name servers, one
after the other, until one answers.

A flow is a query, named by the guest's port and the query's identifier, since resolvers ask for A
and AAAA from one socket. It has a socket for each server that was asked, so that a slow one may
answer still, and ends with the answer. The next server is asked when the one before has not
answered for a second (the guest's resolver gives up after five), has met an ICMP error, or says
that it cannot help (SERVFAIL, NOTIMP, REFUSED). Only when nobody is left does the guest hear of it.
Names and records are none of our business: what is no query, or no answer, passes as it is, and is
forgotten when its time is up.
"""
from libc.stdint cimport uint32_t

from .conn cimport Flow
from .ctx cimport Ctx
from .stats cimport Drop
from .wire cimport IpHdr


cdef bint dns_is_for(Ctx *c, const IpHdr *ip) noexcept nogil
cdef Drop dns_input(Ctx *c, const IpHdr *ip) noexcept nogil
cdef void dns_on_host_event(Ctx *c, Flow *flow, uint32_t events) noexcept nogil
cdef void dns_on_timer(Ctx *c, Flow *flow) noexcept nogil
