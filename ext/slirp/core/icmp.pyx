# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""ICMP echo and errors: see icmp.pxd for the theory."""
from libc.string cimport memcpy, memset

from .conn cimport CUTTING_ALLOWED, CUTTING_FORBIDDEN, FLOW_PING, FLOW_UDP, FlowKey, Sent
from .csum cimport csum_add, csum_fold, csum_store
from .flow cimport (
    LRU_PING, flow_alloc, flow_free, flow_handle, flow_lookup, flow_set_class, flow_unhash,
    flow_use,
)
from .fwd cimport ROUTE_WORLD, Target, fwd_guest_view, fwd_is_ours, fwd_is_unicast, fwd_route
from .hostops cimport EVENT_ERROR, OPTION_DONT_FRAGMENT, REF_FLOW, ref_make
from .ip cimport OutFrame, ip_output
from .linux cimport (
    EACCES, EAGAIN, ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH, EMSGSIZE, ENETDOWN, ENETUNREACH, EPERM,
)
from .rate cimport rate_allows
from .stats cimport (
    CTR_HOST_RX_DROPPED, CTR_ICMP_ERRORS_LIMITED, CTR_ICMP_ERRORS_SENT, DROP_FLOWS_FULL,
    DROP_ICMP_BAD_CHECKSUM, DROP_ICMP_HOST_REFUSED, DROP_ICMP_MALFORMED, DROP_ICMP_NO_PING_SOCKET,
    DROP_ICMP_TOO_BIG, DROP_ICMP_TYPE_UNKNOWN, DROP_IP4_BAD_DESTINATION, DROP_NONE, stats_count,
)
from .timers cimport timer_cancel, timer_set
from .wire cimport (
    ETH_ALEN, FRAME_MAX_BYTES, HEADROOM_BYTES, ICMP_HLEN, IP4_DF, IP4_HLEN, IP_PROTO_ICMP,
    IP_PROTO_TCP, IP_PROTO_UDP, IP_TTL_DEFAULT, UDP_HLEN, addr_get4, load_be16, load_be32,
    store_be16, store_be32, usec_t,
)

cdef enum:
    PING_TIMEOUT_US = 30000000
    PING_FLOWS_MAX = 1024
    PING_BATCH = 32                 # replies read from one socket before others have their turn
    ERRORS_BATCH = 64
    ETHERNET_MTU = 1500
    ICMP_ERROR_EVERY_US = 1000      # RFC 1812 4.3.2.8: 1,000 a second
    ICMP_ERRORS_BURST = 200
    QUOTE_MAX_BYTES = 548           # RFC 1812 4.3.2.3: as much of the original as fits into 576
                                    # bytes


# ---- errors to the guest -----------------------------------------------------------------------

cdef void send_error(Ctx *c, const Addr *guest_addr, const uint8_t *mac, uint8_t icmp_type,
                     uint8_t icmp_code,
                     uint32_t rest, const uint8_t *quote, uint32_t n_quote,
                     const Addr *src) noexcept nogil:
    """An ICMP error about the datagram that `quote` begins with."""
    cdef uint8_t buf[HEADROOM_BYTES + ICMP_HLEN]
    cdef OutFrame out
    if not rate_allows(&c.icmp_limit, c.now_us, ICMP_ERROR_EVERY_US, ICMP_ERRORS_BURST):
        stats_count(&c.stats, CTR_ICMP_ERRORS_LIMITED)
        return
    memset(&out, 0, sizeof(OutFrame))
    out.src = src[0]
    out.dst = guest_addr[0]
    out.proto = IP_PROTO_ICMP
    out.guest_mac = mac
    out.no_csum = True
    out.l4 = buf + HEADROOM_BYTES
    out.l4_bytes = ICMP_HLEN
    out.l4[0] = icmp_type
    out.l4[1] = icmp_code
    store_be16(out.l4 + 2, 0)
    store_be32(out.l4 + 4, rest)
    out.payload[0].iov_base = <void *>quote
    out.payload[0].iov_len = min(n_quote, <uint32_t>QUOTE_MAX_BYTES)
    out.n_payload = 1
    out.payload_bytes = <uint32_t>out.payload[0].iov_len
    csum_store(out.l4 + 2, csum_add(csum_add(0, out.l4, ICMP_HLEN), quote, out.payload_bytes))
    ip_output(c, &out)
    stats_count(&c.stats, CTR_ICMP_ERRORS_SENT)


cdef void refuse(Ctx *c, const IpHdr *ip, uint8_t icmp_type, uint8_t icmp_code,
                 uint32_t rest) noexcept nogil:
    """Refuse a datagram of the guest's, in the name of our address that it was for, or of the
    gateway; never one to a group, or that is itself an ICMP error (RFC 1122 3.2.2).
    """
    if ip.proto == IP_PROTO_ICMP and (ip.payload_bytes == 0 or ip.payload[0] != ICMP_ECHO):
        return
    if not fwd_is_unicast(c, &ip.dst):
        return
    send_error(c, &ip.src, c.frame_mac, icmp_type, icmp_code, rest, ip.header,
               ip.header_bytes + ip.payload_bytes,
               &ip.dst if fwd_is_ours(c, &ip.dst) else &c.conf.gateway4)


cdef void icmp_error(Ctx *c, const IpHdr *ip, uint8_t icmp_type, uint8_t icmp_code) noexcept nogil:
    refuse(c, ip, icmp_type, icmp_code, 0)


cdef void icmp_refuse(Ctx *c, const IpHdr *ip, int error) noexcept nogil:
    """The host would not take a datagram of the guest's, with that errno: tell it as a router
    would.
    """
    cdef int icmp_code = icmp_code_of_errno(error)
    if icmp_code >= 0:
        refuse(c, ip, ICMP_UNREACHABLE, <uint8_t>icmp_code, 0)


cdef void build_quote(uint8_t *p, const Addr *guest_addr, const Addr *dest, uint8_t proto,
                      uint32_t payload_bytes) noexcept nogil:
    """The IP header that the guest had sent, as far as it is known still."""
    memset(p, 0, IP4_HLEN)
    p[0] = 0x45
    store_be16(p + 2, <uint16_t>(IP4_HLEN + payload_bytes))
    store_be16(p + 6, IP4_DF)
    p[8] = IP_TTL_DEFAULT
    p[9] = proto
    store_be32(p + 12, addr_get4(guest_addr))
    store_be32(p + 16, addr_get4(dest))
    csum_store(p + 10, csum_add(0, p, IP4_HLEN))


cdef void icmp_unreachable_for_tcp(Ctx *c, const Flow *flow, uint8_t icmp_code) noexcept nogil:
    """The guest's SYN could not be delivered: destination unreachable."""
    cdef uint8_t quote[IP4_HLEN + 20]
    build_quote(quote, &flow.key.guest_addr, &flow.key.dest_addr, IP_PROTO_TCP, 20)
    memset(quote + IP4_HLEN, 0, 20)
    store_be16(quote + IP4_HLEN, flow.key.guest_port)
    store_be16(quote + IP4_HLEN + 2, flow.key.dest_port)
    store_be32(quote + IP4_HLEN + 4, flow.body.tcp.irs)
    quote[IP4_HLEN + 12] = 0x50
    quote[IP4_HLEN + 13] = 0x02
    send_error(c, &flow.key.guest_addr, flow.guest_mac, ICMP_UNREACHABLE, icmp_code, 0, quote,
               IP4_HLEN + 20,
               &c.conf.gateway4)


cdef int icmp_code_of_errno(int error) noexcept nogil:
    """The code of "destination unreachable" that says the same; -1: the guest need not know."""
    if error == ECONNREFUSED:
        return ICMP_PORT_UNREACHABLE
    if error == EHOSTUNREACH or error == EHOSTDOWN:
        return ICMP_HOST_UNREACHABLE
    if error == ENETUNREACH or error == ENETDOWN:
        return ICMP_NET_UNREACHABLE
    if error == EACCES or error == EPERM:
        return ICMP_ADMIN_PROHIBITED
    return -1


cdef bint from_error(const HostError *error, uint8_t *icmp_type, uint8_t *icmp_code) noexcept nogil:
    """The ICMP message that says what the host's error says. False: nothing the guest needs to
    know.
    """
    cdef int code
    if error.from_icmp:
        icmp_type[0] = error.icmp_type
        icmp_code[0] = error.icmp_code
        return error.icmp_type == ICMP_UNREACHABLE or error.icmp_type == ICMP_TIME_EXCEEDED
    code = icmp_code_of_errno(error.error)
    if error.error == EMSGSIZE and error.mtu:
        code = ICMP_FRAG_NEEDED
    icmp_type[0] = ICMP_UNREACHABLE
    icmp_code[0] = <uint8_t>code
    return code >= 0


cdef void error_for_flow(Ctx *c, const Flow *flow, const Addr *dest, const HostError *error,
                         const uint8_t *quote, uint32_t n) noexcept nogil:
    """Report a host's error about a datagram to `dest` that `quote` begins with.

    Who says so is seen as the guest sees the host's peers; what is wrong at an address of ours is
    said by that address.
    """
    cdef uint8_t icmp_type = 0
    cdef uint8_t icmp_code = 0
    cdef uint32_t rest = 0
    cdef Addr src = c.conf.gateway4
    if not from_error(error, &icmp_type, &icmp_code):
        return
    if icmp_type == ICMP_UNREACHABLE and icmp_code == ICMP_FRAG_NEEDED:
        rest = error.mtu & 0xFFFF
    if fwd_is_ours(c, dest):
        src = dest[0]
    elif error.from_icmp:
        fwd_guest_view(c, &error.offender_addr, &src)
    send_error(c, &flow.key.guest_addr, flow.guest_mac, icmp_type, icmp_code, rest, quote, n, &src)


cdef void icmp_error_for_udp(Ctx *c, const Flow *flow, const Addr *dest, uint16_t dest_port,
                             const HostError *error) noexcept nogil:
    """A datagram of this flow to `dest`:`dest_port` met an error on its way."""
    cdef uint8_t built[IP4_HLEN + 8]
    cdef const uint8_t *quote = flow.body.udp.sent.b
    if not (flow.body.udp.sent.valid and load_be32(quote + 16) == addr_get4(dest)
            and load_be16(quote + IP4_HLEN + 2) == dest_port):
        build_quote(built, &flow.key.guest_addr, dest, IP_PROTO_UDP, 8)
        store_be16(built + IP4_HLEN, flow.key.guest_port)
        store_be16(built + IP4_HLEN + 2, dest_port)
        store_be16(built + IP4_HLEN + 4, 8)
        store_be16(built + IP4_HLEN + 6, 0)
        quote = built
    error_for_flow(c, flow, dest, error, quote, IP4_HLEN + 8)


cdef void take_errors(Ctx *c, Flow *flow, uint32_t *mtu) noexcept nogil:
    """Report what waits in the error queue of a flow's own socket; to `mtu`, if it is there, goes
    what the host itself has just refused something for.
    """
    cdef HostError error
    cdef int _
    for _ in range(ERRORS_BATCH):
        if c.host.next_error(c.host.impl, flow.fd, &error) <= 0:
            break
        if mtu != NULL and error.error == EMSGSIZE and not error.from_icmp:
            mtu[0] = error.mtu
        elif flow.kind == FLOW_PING:
            error_for_flow(c, flow, &flow.key.dest_addr, &error, flow.body.ping.sent.b,
                           IP4_HLEN + ICMP_HLEN)
        elif flow.kind == FLOW_UDP:
            icmp_error_for_udp(c, flow, &error.peer_addr, error.peer_port, &error)
        else:
            icmp_error_for_udp(c, flow, &flow.key.dest_addr, flow.key.dest_port, &error)


cdef void icmp_take_errors(Ctx *c, Flow *flow) noexcept nogil:
    """The error queue of a flow's own socket is not empty."""
    take_errors(c, flow, NULL)


cdef uint8_t cutting_of(const IpHdr *ip) noexcept nogil:
    """Whether the host may cut a datagram, or each of a train."""
    cdef uint32_t n = UDP_HLEN + ip.gso_size if ip.gso_size else ip.payload_bytes
    if load_be16(ip.header + 6) & IP4_DF and ip.header_bytes + n <= ETHERNET_MTU:
        return CUTTING_FORBIDDEN
    return CUTTING_ALLOWED


cdef void keep_start(Sent *sent, const IpHdr *ip) noexcept nogil:
    """What a router would quote, less IP's options."""
    memcpy(sent.b, ip.header, IP4_HLEN)
    memcpy(sent.b + IP4_HLEN, ip.payload, 8)
    sent.valid = True
    if ip.header_bytes > IP4_HLEN:
        sent.b[0] = 0x45
        store_be16(sent.b + 2, <uint16_t>(IP4_HLEN + ip.payload_bytes))
        store_be16(sent.b + 10, 0)
        csum_store(sent.b + 10, csum_add(0, sent.b, IP4_HLEN))


cdef ssize_t icmp_tracked_send(Ctx *c, Flow *flow, const IpHdr *ip,
                               const Datagram *datagram) noexcept nogil:
    """Send a datagram of the guest's by the flow's own socket, cut or not as the guest wishes, and
    keep what an error about it will quote. What dgram_send gives; at -EMSGSIZE the guest is told.
    """
    cdef uint8_t *cutting = &flow.body.udp.cutting
    cdef Sent *sent = &flow.body.udp.sent
    cdef uint8_t wish = cutting_of(ip)
    cdef uint32_t mtu = 0
    cdef ssize_t result
    if flow.kind == FLOW_PING:
        cutting = &flow.body.ping.cutting
        sent = &flow.body.ping.sent
    if cutting[0] != wish:
        cutting[0] = wish
        c.host.set_option(c.host.impl, flow.fd, OPTION_DONT_FRAGMENT, wish == CUTTING_FORBIDDEN)
    keep_start(sent, ip)
    result = c.host.dgram_send(c.host.impl, flow.fd, datagram)
    # An error left by an earlier datagram: it has been taken now
    if result < 0 and result != -EAGAIN and result != -EMSGSIZE:
        result = c.host.dgram_send(c.host.impl, flow.fd, datagram)
    if result == -EMSGSIZE:
        take_errors(c, flow, &mtu)
        if mtu:
            refuse(c, ip, ICMP_UNREACHABLE, ICMP_FRAG_NEEDED, mtu & 0xFFFF)
    return result


# ---- echo --------------------------------------------------------------------------------------

cdef void send_echo_reply(Ctx *c, const Addr *src, const Addr *guest_addr, const uint8_t *mac,
                          uint16_t ident, uint16_t seq,
                          const uint8_t *data, uint32_t n, uint8_t ttl,
                          uint8_t tos) noexcept nogil:
    cdef uint8_t buf[HEADROOM_BYTES + ICMP_HLEN]
    cdef OutFrame out
    memset(&out, 0, sizeof(OutFrame))
    out.src = src[0]
    out.dst = guest_addr[0]
    out.proto = IP_PROTO_ICMP
    out.ttl = ttl
    out.tos = tos
    out.guest_mac = mac
    out.no_csum = True
    out.l4 = buf + HEADROOM_BYTES
    out.l4_bytes = ICMP_HLEN
    store_be32(out.l4, 0)                                       # type 0, code 0, checksum to come
    store_be16(out.l4 + 4, ident)
    store_be16(out.l4 + 6, seq)
    out.payload[0].iov_base = <void *>data
    out.payload[0].iov_len = n
    out.n_payload = 1
    out.payload_bytes = n
    csum_store(out.l4 + 2, csum_add(csum_add(0, out.l4, ICMP_HLEN), data, n))
    ip_output(c, &out)


cdef Drop ping_open(Ctx *c, const FlowKey *key, Flow **out) noexcept nogil:
    """A flow with a ping socket, the oldest giving way at the bound."""
    cdef Flow *flow
    cdef int fd
    if c.flows.lru[<int>LRU_PING].count >= PING_FLOWS_MAX:
        ping_close(c, c.flows.lru[<int>LRU_PING].oldest)
    flow = flow_alloc(&c.flows, key, FLOW_PING)
    if flow == NULL:
        return DROP_FLOWS_FULL
    flow_set_class(&c.flows, flow, LRU_PING)
    memcpy(flow.guest_mac, c.frame_mac, ETH_ALEN)
    fd = c.host.ping_open(c.host.impl, ref_make(REF_FLOW, flow_handle(flow)), True)
    if fd < 0:
        ping_close(c, flow)
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


cdef Drop ping_input(Ctx *c, const IpHdr *ip) noexcept nogil:
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
    key.proto = IP_PROTO_ICMP
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


cdef Drop icmp_input(Ctx *c, const IpHdr *ip) noexcept nogil:
    """An ICMP message of the guest's. Only echo requests are of interest."""
    cdef Target target
    if ip.payload_bytes < ICMP_HLEN:
        return DROP_ICMP_MALFORMED
    if not ip.csum_trusted and csum_fold(csum_add(0, ip.payload, ip.payload_bytes)) != 0:
        return DROP_ICMP_BAD_CHECKSUM
    if ip.payload[0] != ICMP_ECHO or ip.payload[1] != 0:
        return DROP_ICMP_TYPE_UNKNOWN
    if fwd_is_ours(c, &ip.dst):
        send_echo_reply(c, &ip.dst, &ip.src, c.frame_mac, load_be16(ip.payload + 4),
                        load_be16(ip.payload + 6),
                        ip.payload + ICMP_HLEN, ip.payload_bytes - ICMP_HLEN, 0, ip.tos)
        return DROP_NONE
    fwd_route(c, &ip.dst, 0, &target)
    if target.route != ROUTE_WORLD:
        icmp_error(c, ip, ICMP_UNREACHABLE, ICMP_HOST_UNREACHABLE)
        return DROP_IP4_BAD_DESTINATION
    return ping_input(c, ip)


cdef void ping_on_host_event(Ctx *c, Flow *flow, uint32_t events) noexcept nogil:
    """Replies, or errors, wait at a ping socket."""
    cdef Datagram datagram
    cdef int _
    if events & EVENT_ERROR:
        take_errors(c, flow, NULL)
    for _ in range(PING_BATCH):
        memset(&datagram, 0, sizeof(Datagram))
        datagram.data = c.scratch + HEADROOM_BYTES
        datagram.capacity = FRAME_MAX_BYTES
        if c.host.dgram_recv(c.host.impl, flow.fd, &datagram) < 0:
            return
        if (datagram.length < ICMP_HLEN or datagram.length > datagram.capacity
                or datagram.data[0] != ICMP_ECHO_REPLY):
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
