# cython: language_level=3
"""ICMPv6 (RFC 4443) in the words of ICMP: the numbers of both, and which says the same as which.

Inside, an error has ICMP's type and code whatever the family; it is put into the guest's words, or
taken out of the host's, here. The pairs are those of RFC 7915 4.2 and 5.2.
"""
from libc.stdint cimport uint8_t


cdef enum:
    ICMP_ECHO_REPLY = 0
    ICMP_UNREACHABLE = 3
    ICMP_ECHO = 8
    ICMP_TIME_EXCEEDED = 11
    ICMP_NET_UNREACHABLE = 0
    ICMP_HOST_UNREACHABLE = 1
    ICMP_PROTO_UNREACHABLE = 2
    ICMP_PORT_UNREACHABLE = 3
    ICMP_FRAG_NEEDED = 4
    ICMP_ADMIN_PROHIBITED = 13
    ICMP_REASSEMBLY_TIMEOUT = 1     # code of ICMP_TIME_EXCEEDED, in both families

    ICMP6_UNREACHABLE = 1
    ICMP6_PACKET_TOO_BIG = 2
    ICMP6_TIME_EXCEEDED = 3
    ICMP6_PARAMETER_PROBLEM = 4
    ICMP6_ECHO = 128                # what is below is an error
    ICMP6_ECHO_REPLY = 129
    ICMP6_ROUTER_SOLICITATION = 133
    ICMP6_NEIGHBOUR_SOLICITATION = 135
    ICMP6_NEIGHBOUR_ADVERTISEMENT = 136
    ICMP6_REDIRECT = 137
    ICMP6_NO_ROUTE = 0              # codes of ICMP6_UNREACHABLE
    ICMP6_PROHIBITED = 1
    ICMP6_BEYOND_SCOPE = 2
    ICMP6_ADDRESS_UNREACHABLE = 3
    ICMP6_PORT_UNREACHABLE = 4
    ICMP6_UNKNOWN_NEXT_HEADER = 1   # a code of ICMP6_PARAMETER_PROBLEM


cdef inline void icmp6_of_icmp(uint8_t *icmp_type, uint8_t *icmp_code) noexcept nogil:
    """What an error of ICMP is in ICMPv6."""
    cdef uint8_t code = icmp_code[0]
    if icmp_type[0] == ICMP_TIME_EXCEEDED:
        icmp_type[0] = ICMP6_TIME_EXCEEDED
        return
    icmp_type[0] = ICMP6_UNREACHABLE
    if code == ICMP_FRAG_NEEDED:
        icmp_type[0] = ICMP6_PACKET_TOO_BIG
        icmp_code[0] = 0
    elif code == ICMP_PROTO_UNREACHABLE:
        icmp_type[0] = ICMP6_PARAMETER_PROBLEM
        icmp_code[0] = ICMP6_UNKNOWN_NEXT_HEADER
    elif code == ICMP_PORT_UNREACHABLE:
        icmp_code[0] = ICMP6_PORT_UNREACHABLE
    elif code == ICMP_HOST_UNREACHABLE:
        icmp_code[0] = ICMP6_ADDRESS_UNREACHABLE
    elif code == ICMP_ADMIN_PROHIBITED or code == 9 or code == 10:
        icmp_code[0] = ICMP6_PROHIBITED
    else:
        icmp_code[0] = ICMP6_NO_ROUTE


cdef inline bint icmp_of_icmp6(uint8_t *icmp_type, uint8_t *icmp_code) noexcept nogil:
    """What an error of ICMPv6 is in ICMP; False when there is nothing that says it."""
    cdef uint8_t kind = icmp_type[0]
    cdef uint8_t code = icmp_code[0]
    icmp_type[0] = ICMP_UNREACHABLE
    if kind == ICMP6_TIME_EXCEEDED:
        icmp_type[0] = ICMP_TIME_EXCEEDED
    elif kind == ICMP6_PACKET_TOO_BIG:
        icmp_code[0] = ICMP_FRAG_NEEDED
    elif kind == ICMP6_PARAMETER_PROBLEM and code == ICMP6_UNKNOWN_NEXT_HEADER:
        icmp_code[0] = ICMP_PROTO_UNREACHABLE
    elif kind != ICMP6_UNREACHABLE:
        return False
    elif code == ICMP6_PORT_UNREACHABLE:
        icmp_code[0] = ICMP_PORT_UNREACHABLE
    elif code == ICMP6_PROHIBITED or code == 5 or code == 6:
        icmp_code[0] = ICMP_ADMIN_PROHIBITED
    elif code == ICMP6_NO_ROUTE:
        icmp_code[0] = ICMP_NET_UNREACHABLE
    else:
        icmp_code[0] = ICMP_HOST_UNREACHABLE
    return True
