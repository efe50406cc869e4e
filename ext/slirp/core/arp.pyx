# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""ARP: see arp.pxd."""
from libc.stdint cimport uint16_t
from libc.string cimport memcpy, memset

from .fwd cimport fwd_in_subnet, fwd_is_ours
from .ip cimport neigh_learn
from .punt cimport send_whole_frame
from .stats cimport (
    CTR_NEIGH_ASKED, DROP_ARP_MALFORMED, DROP_ARP_NOT_FOR_US, DROP_NONE, stats_count,
)
from .wire cimport (
    ETH_ALEN, ETH_HLEN, ETH_P_ARP, ETH_P_IP, addr_get4, addr_set4, load_be16, load_be32,
    store_be16,
)

cdef enum:
    ARP_BYTES = 28                  # for Ethernet and IPv4
    ARP_REQUEST = 1
    ARP_REPLY = 2
    # offsets: hardware type 0, protocol type 2, lengths 4 and 5, operation 6, sender 8 and 14,
    # target 18 and 24
    ARP_SENDER_MAC = 8
    ARP_SENDER_IP = 14
    ARP_TARGET_MAC = 18
    ARP_TARGET_IP = 24


cdef void send_reply(Ctx *c, const uint8_t *request) noexcept nogil:
    cdef uint8_t eth[ETH_HLEN + ARP_BYTES]
    cdef uint8_t *p = eth + ETH_HLEN
    memcpy(eth, request + ARP_SENDER_MAC, ETH_ALEN)
    memcpy(eth + ETH_ALEN, c.conf.gateway_mac, ETH_ALEN)
    store_be16(eth + 12, ETH_P_ARP)
    memcpy(p, request, 6)
    store_be16(p + 6, ARP_REPLY)
    memcpy(p + ARP_SENDER_MAC, c.conf.gateway_mac, ETH_ALEN)
    memcpy(p + ARP_SENDER_IP, request + ARP_TARGET_IP, 4)
    memcpy(p + ARP_TARGET_MAC, request + ARP_SENDER_MAC, ETH_ALEN)
    memcpy(p + ARP_TARGET_IP, request + ARP_SENDER_IP, 4)
    send_whole_frame(c, eth, sizeof(eth))


cdef void arp_ask(Ctx *c, const Addr *target) noexcept nogil:
    """Who has that address of the guest's?"""
    cdef uint8_t eth[ETH_HLEN + ARP_BYTES]
    cdef uint8_t *p = eth + ETH_HLEN
    memset(eth, 0xFF, ETH_ALEN)
    memcpy(eth + ETH_ALEN, c.conf.gateway_mac, ETH_ALEN)
    store_be16(eth + 12, ETH_P_ARP)
    store_be16(p, 1)
    store_be16(p + 2, ETH_P_IP)
    p[4] = ETH_ALEN
    p[5] = 4
    store_be16(p + 6, ARP_REQUEST)
    memcpy(p + ARP_SENDER_MAC, c.conf.gateway_mac, ETH_ALEN)
    memcpy(p + ARP_SENDER_IP, &c.conf.gateway4.b[12], 4)
    memset(p + ARP_TARGET_MAC, 0, ETH_ALEN)
    memcpy(p + ARP_TARGET_IP, &target.b[12], 4)
    send_whole_frame(c, eth, sizeof(eth))
    stats_count(&c.stats, CTR_NEIGH_ASKED)


cdef Drop arp_input(Ctx *c, const uint8_t *p, uint32_t n) noexcept nogil:
    """A request or reply of the guest's: `n` bytes behind the Ethernet header."""
    cdef Addr sender, target
    cdef uint32_t sender4
    cdef uint16_t operation
    if n < ARP_BYTES:
        return DROP_ARP_MALFORMED
    operation = load_be16(p + 6)
    if (load_be16(p) != 1 or load_be16(p + 2) != ETH_P_IP or p[4] != ETH_ALEN or p[5] != 4
            or operation not in (ARP_REQUEST, ARP_REPLY) or p[ARP_SENDER_MAC] & 1):
        return DROP_ARP_MALFORMED
    addr_set4(&sender, p + ARP_SENDER_IP)
    addr_set4(&target, p + ARP_TARGET_IP)
    sender4 = load_be32(p + ARP_SENDER_IP)
    # An RFC 5227 probe has no sender address yet. Nobody takes our own addresses away from us.
    if sender4 and fwd_in_subnet(c, &sender) and not fwd_is_ours(c, &sender):
        neigh_learn(c, &sender, p + ARP_SENDER_MAC)
    if not fwd_is_ours(c, &target):
        return DROP_NONE if addr_get4(&target) == sender4 else DROP_ARP_NOT_FOR_US
    if operation == ARP_REQUEST and not (sender4 and fwd_is_ours(c, &sender)
                                         and addr_get4(&target) != sender4):
        send_reply(c, p)
    return DROP_NONE
