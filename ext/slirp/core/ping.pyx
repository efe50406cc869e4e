# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Echo: see ping.pxd for the theory."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from .conn cimport FLOW_PING, FlowKey
from .csum cimport csum_add, csum_fold
from .flow cimport (
    LRU_PING, flow_alloc, flow_free, flow_handle, flow_lookup, flow_set_class, flow_unhash,
    flow_use,
)
from .fwd cimport ROUTE_WORLD, Target, fwd_is_ours, fwd_nowhere, fwd_route
from .hostops cimport EVENT_ERROR, REF_FLOW, Datagram, ref_make
from .icmp cimport (
    icmp_error, icmp_finish, icmp_refuse, icmp_speaker, icmp_take_errors, icmp_tracked_send,
)
from .icmp6 cimport (
    ICMP6_ECHO, ICMP6_ECHO_REPLY, ICMP_ECHO, ICMP_ECHO_REPLY, ICMP_HOST_UNREACHABLE,
    ICMP_UNREACHABLE,
)
from .ip cimport OutFrame, ip_csum_ok, ip_output
from .linux cimport EACCES, EMSGSIZE
from .stats cimport (
    CTR_HOST_RX_DROPPED, DROP_FLOWS_FULL, DROP_ICMP_BAD_CHECKSUM, DROP_ICMP_HOST_REFUSED,
    DROP_ICMP_MALFORMED, DROP_ICMP_NO_PING_SOCKET, DROP_ICMP_TOO_BIG, DROP_ICMP_TYPE_UNKNOWN,
    DROP_NONE, stats_count,
)
from .timers cimport timer_cancel, timer_set
from .wire cimport (
    ETH_ALEN, FRAME_MAX_BYTES, HEADROOM_BYTES, ICMP_HLEN, IP4_HLEN, IP_PROTO_ICMP6, Addr, addr_is4,
    addr_is_link_local6, addr_is_multicast6, load_be16, load_be32, store_be16, store_be32, usec_t,
)

cdef enum:
    PING_TIMEOUT_US = 30000000
    PING_BATCH = 32                 # replies read from one socket before others have their turn


cdef void send_echo_reply(Ctx *c, const Addr *src, const Addr *guest_addr, const uint8_t *mac,
                          uint16_t ident, uint16_t seq,
                          const uint8_t *data, uint32_t n, uint8_t ttl,
                          uint8_t tos) noexcept nogil:
    cdef uint8_t buf[HEADROOM_BYTES + ICMP_HLEN]
    cdef OutFrame out
    memset(&out, 0, sizeof(OutFrame))
    out.src = src[0]
    out.dst = guest_addr[0]
    out.ttl = ttl
    out.tos = tos
    out.guest_mac = mac
    out.l4 = buf + HEADROOM_BYTES
    out.l4_bytes = ICMP_HLEN
    store_be32(out.l4, 0)                                       # code 0, checksum to come
    out.l4[0] = ICMP_ECHO_REPLY if addr_is4(guest_addr) else ICMP6_ECHO_REPLY
    store_be16(out.l4 + 4, ident)
    store_be16(out.l4 + 6, seq)
    out.payload[0].iov_base = <void *>data
    out.payload[0].iov_len = n
    out.n_payload = 1
    out.payload_bytes = n
    icmp_finish(&out)
    ip_output(c, &out)


cdef Drop ping_open(Ctx *c, const FlowKey *key, Flow **out) noexcept nogil:
    """A flow with a ping socket, the oldest giving way at the bound."""
    cdef Flow *flow
    cdef int fd
    if c.flows.lru[<int>LRU_PING].count >= c.conf.max_ping_flows:
        ping_close(c, c.flows.lru[<int>LRU_PING].oldest)
    flow = flow_alloc(&c.flows, key, FLOW_PING)
    if flow == NULL:
        return DROP_FLOWS_FULL
    flow_set_class(&c.flows, flow, LRU_PING)
    memcpy(flow.guest_mac, c.frame_mac, ETH_ALEN)
    fd = c.host.ping_open(c.host.impl, ref_make(REF_FLOW, flow_handle(flow)),
                          addr_is4(&key.dest_addr))
    if fd < 0:
        ping_close(c, flow)
        if fd == -EACCES:
            c.ping_forbidden = True
        return DROP_ICMP_NO_PING_SOCKET
    flow.fd = fd
    timer_set(&c.timers, &flow.timer, c.now_us + PING_TIMEOUT_US)
    out[0] = flow
    return DROP_NONE


cdef void ping_close(Ctx *c, Flow *flow) noexcept nogil:
    if flow.fd >= 0:
        c.host.close(c.host.impl, flow.fd)
    timer_cancel(&c.timers, &flow.timer)
    flow_unhash(&c.flows, flow)
    flow_free(&c.flows, flow)


cdef Drop to_world(Ctx *c, const IpHdr *ip) noexcept nogil:
    """An echo request for the world."""
    cdef FlowKey key
    cdef Flow *flow
    cdef Datagram datagram
    cdef ssize_t result
    cdef Drop d
    memset(&key, 0, sizeof(FlowKey))
    key.guest_addr = ip.src
    key.dest_addr = ip.dst
    key.guest_port = load_be16(ip.payload + 4)
    key.proto = ip.proto
    flow = flow_lookup(&c.flows, &key)
    if flow == NULL:
        d = ping_open(c, &key, &flow)
        if d != DROP_NONE:
            return d
    else:
        flow_use(&c.flows, flow)
    flow.last_us = c.now_us
    memset(&datagram, 0, sizeof(Datagram))
    datagram.peer_addr = ip.dst
    datagram.data = <uint8_t *>ip.payload
    datagram.length = ip.payload_bytes
    datagram.ttl = ip.ttl - 1               # one hop is behind it: us
    datagram.tos = ip.tos
    result = icmp_tracked_send(c, flow, ip, &datagram)
    if result >= 0:
        return DROP_NONE
    if result == -EMSGSIZE:
        return DROP_ICMP_TOO_BIG
    icmp_refuse(c, ip, <int>-result)
    return DROP_ICMP_HOST_REFUSED


cdef bint ping_is_for_group(const IpHdr *ip) noexcept nogil:
    """An echo request to all nodes or all routers of the link: who is both should answer (RFC 4443
    4.2).
    """
    cdef uint32_t host_part = load_be32(&ip.dst.b[12])
    if ip.proto != IP_PROTO_ICMP6 or ip.payload_bytes == 0 or ip.payload[0] != ICMP6_ECHO:
        return False
    if load_be16(ip.dst.b) != 0xFF02 or host_part == 0 or host_part > 2:
        return False
    return load_be16(&ip.dst.b[2]) == 0 and load_be32(&ip.dst.b[4]) == 0 and load_be32(
        &ip.dst.b[8]) == 0


cdef Drop ping_input(Ctx *c, const IpHdr *ip) noexcept nogil:
    """An ICMP message of the guest's, of either family. Only echo requests are of interest."""
    cdef Target target
    cdef bint to_group = ip.v6 and addr_is_multicast6(&ip.dst)
    cdef const Addr *src = &ip.dst
    if ip.payload_bytes < ICMP_HLEN:
        return DROP_ICMP_MALFORMED
    if ip.v6:
        if not ip_csum_ok(ip, ip.payload_bytes):
            return DROP_ICMP_BAD_CHECKSUM
    elif not ip.csum_trusted and csum_fold(csum_add(0, ip.payload, ip.payload_bytes)) != 0:
        return DROP_ICMP_BAD_CHECKSUM
    if ip.payload[0] != (ICMP6_ECHO if ip.v6 else ICMP_ECHO) or ip.payload[1] != 0:
        return DROP_ICMP_TYPE_UNKNOWN
    if to_group or fwd_is_ours(c, &ip.dst):
        if to_group:
            src = icmp_speaker(c, &ip.src)
        send_echo_reply(c, src, &ip.src, c.frame_mac, load_be16(ip.payload + 4),
                        load_be16(ip.payload + 6),
                        ip.payload + ICMP_HLEN, ip.payload_bytes - ICMP_HLEN, 0, ip.tos)
        return DROP_NONE
    fwd_route(c, &ip.dst, 0, &target)
    if target.route != ROUTE_WORLD:
        icmp_error(c, ip, ICMP_UNREACHABLE, ICMP_HOST_UNREACHABLE)
        return fwd_nowhere(ip)
    return to_world(c, ip)


cdef void ping_on_host_event(Ctx *c, Flow *flow, uint32_t events) noexcept nogil:
    """Replies, or errors, wait at a ping socket."""
    cdef Datagram datagram
    cdef int _
    if events & EVENT_ERROR:
        icmp_take_errors(c, flow, NULL)
    for _ in range(PING_BATCH):
        memset(&datagram, 0, sizeof(Datagram))
        datagram.data = c.scratch + HEADROOM_BYTES
        datagram.capacity = FRAME_MAX_BYTES
        if c.host.dgram_recv(c.host.impl, flow.fd, &datagram) < 0:
            return
        if (datagram.length < ICMP_HLEN or datagram.length > 65535 - IP4_HLEN
                or addr_is_link_local6(&datagram.peer_addr)             # RFC 4007 9
                or datagram.data[0] != (ICMP_ECHO_REPLY if addr_is4(&flow.key.dest_addr)
                                        else ICMP6_ECHO_REPLY)):
            stats_count(&c.stats, CTR_HOST_RX_DROPPED)
            continue
        send_echo_reply(c, &datagram.peer_addr, &flow.key.guest_addr, flow.guest_mac,
                        flow.key.guest_port,
                        load_be16(datagram.data + 6), datagram.data + ICMP_HLEN,
                        datagram.length - ICMP_HLEN, datagram.ttl, datagram.tos)


cdef void ping_on_timer(Ctx *c, Flow *flow) noexcept nogil:
    """Idle for long enough: done."""
    cdef usec_t due = flow.last_us + PING_TIMEOUT_US
    if due > c.now_us:
        timer_set(&c.timers, &flow.timer, due)
    else:
        ping_close(c, flow)
