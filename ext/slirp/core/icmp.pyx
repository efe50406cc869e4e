# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""ICMP errors: see icmp.pxd for the theory."""
from libc.string cimport memcmp, memcpy, memset

from .conn cimport CUTTING_ALLOWED, CUTTING_FORBIDDEN, FLOW_PING, FLOW_UDP, Sent
from .csum cimport csum_add, csum_store
from .fwd cimport fwd_gateway, fwd_guest_view, fwd_is_ours, fwd_is_unicast
from .hostops cimport OPTION_DONT_FRAGMENT
from .icmp6 cimport (
    ICMP6_BEYOND_SCOPE, ICMP6_ECHO, ICMP6_PARAMETER_PROBLEM, ICMP6_REDIRECT, ICMP6_UNREACHABLE,
    ICMP_ADMIN_PROHIBITED, ICMP_ECHO, ICMP_FRAG_NEEDED, ICMP_HOST_UNREACHABLE, ICMP_NET_UNREACHABLE,
    ICMP_PORT_UNREACHABLE, ICMP_TIME_EXCEEDED, ICMP_UNREACHABLE, icmp6_of_icmp, icmp_of_icmp6,
)
from .ip cimport ip_output
from .ip6 cimport PROBLEM_OPTION
from .linux cimport (
    EACCES, EAGAIN, ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH, EMSGSIZE, ENETDOWN, ENETUNREACH, EPERM,
)
from .rate cimport rate_allows
from .stats cimport CTR_ICMP_ERRORS_LIMITED, CTR_ICMP_ERRORS_SENT, stats_count
from .wire cimport (
    HEADROOM_BYTES, ICMP_HLEN, IP4_DF, IP4_HLEN, IP6_HLEN, IP_PROTO_ICMP, IP_PROTO_ICMP6,
    IP_PROTO_TCP, IP_PROTO_UDP, IP_TTL_DEFAULT, TCP_HLEN, UDP_HLEN, addr_get4, addr_is4,
    addr_is_link_local6, addr_is_zero, ip_hlen, load_be16, store_be16, store_be32,
)

cdef enum:
    ERRORS_BATCH = 64
    ETHERNET_MTU = 1500
    ICMP_ERROR_EVERY_US = 1000      # RFC 1812 4.3.2.8: 1,000 a second
    ICMP_ERRORS_BURST = 200
    QUOTE_MAX_BYTES = 548           # RFC 1812 4.3.2.3: as much of the original as fits into 576
                                    # bytes
    QUOTE6_MAX_BYTES = 1232         # RFC 4443 2.4 (c): and into IPv6's 1,280


cdef void send_error(Ctx *c, const Addr *guest_addr, const uint8_t *mac, uint8_t icmp_type,
                     uint8_t icmp_code, uint32_t rest, const uint8_t *quote, uint32_t n_quote,
                     const Addr *src) noexcept nogil:
    """An error, its numbers those of the guest's family, about the datagram that `quote` begins
    with.
    """
    cdef uint8_t buf[HEADROOM_BYTES + ICMP_HLEN]
    cdef OutFrame out
    cdef bint v4 = addr_is4(guest_addr)
    if not rate_allows(&c.icmp_limit, c.now_us, ICMP_ERROR_EVERY_US, ICMP_ERRORS_BURST):
        stats_count(&c.stats, CTR_ICMP_ERRORS_LIMITED)
        return
    memset(&out, 0, sizeof(OutFrame))
    out.src = src[0]
    out.dst = guest_addr[0]
    out.guest_mac = mac
    out.l4 = buf + HEADROOM_BYTES
    out.l4_bytes = ICMP_HLEN
    out.l4[0] = icmp_type
    out.l4[1] = icmp_code
    store_be16(out.l4 + 2, 0)
    store_be32(out.l4 + 4, rest)
    out.payload[0].iov_base = <void *>quote
    out.payload[0].iov_len = min(n_quote, <uint32_t>(QUOTE_MAX_BYTES if v4 else QUOTE6_MAX_BYTES))
    out.n_payload = 1
    out.payload_bytes = <uint32_t>out.payload[0].iov_len
    icmp_finish(&out)
    ip_output(c, &out)
    stats_count(&c.stats, CTR_ICMP_ERRORS_SENT)


cdef void icmp_finish(OutFrame *out) noexcept nogil:
    """Protocol and checksum; ICMPv6's covers a pseudo-header, which ip_output knows (RFC 4443 2.3).
    """
    if not addr_is4(&out.dst):
        out.proto = IP_PROTO_ICMP6
        out.csum_offset = 2
        return
    out.proto = IP_PROTO_ICMP
    out.no_csum = True
    csum_store(out.l4 + 2, csum_add(csum_add(0, out.l4, ICMP_HLEN),
                                    <const uint8_t *>out.payload[0].iov_base, out.payload_bytes))


cdef const Addr *icmp_speaker(Ctx *c, const Addr *guest_addr) noexcept nogil:
    """The address of ours that a router's errors come from, of the guest's family and scope."""
    if not addr_is4(guest_addr) and addr_is_link_local6(guest_addr):
        return &c.conf.link_local6
    return fwd_gateway(c, guest_addr)


cdef bint may_be_told(Ctx *c, const IpHdr *ip) noexcept nogil:
    """RFC 1122 3.2.2, RFC 4443 2.4 (e): no error about an error, nor to who cannot be one's sender.
    """
    if not ip.v6:
        return ip.proto != IP_PROTO_ICMP or ip.payload_bytes and ip.payload[0] == ICMP_ECHO
    if addr_is_zero(&ip.src):
        return False
    return (ip.proto != IP_PROTO_ICMP6
            or ip.payload_bytes and ip.payload[0] >= ICMP6_ECHO and ip.payload[0] != ICMP6_REDIRECT)


cdef void answer_error(Ctx *c, const IpHdr *ip, uint8_t icmp_type, uint8_t icmp_code,
                       uint32_t rest) noexcept nogil:
    """An error, in the family's own numbers, in the name of our address that the datagram was for,
    or of the gateway.
    """
    send_error(c, &ip.src, c.frame_mac, icmp_type, icmp_code, rest, ip.header,
               ip.header_bytes + ip.payload_bytes,
               &ip.dst if fwd_is_ours(c, &ip.dst) else icmp_speaker(c, &ip.src))


cdef void refuse(Ctx *c, const IpHdr *ip, uint8_t icmp_type, uint8_t icmp_code,
                 uint32_t rest) noexcept nogil:
    """Refuse a datagram of the guest's; never one to a group."""
    if not may_be_told(c, ip) or not fwd_is_unicast(c, &ip.dst):
        return
    if ip.v6:
        icmp6_of_icmp(&icmp_type, &icmp_code)
        if icmp_type == ICMP6_PARAMETER_PROBLEM:
            rest = ip.next_header_at                        # RFC 4443 3.4: what is not understood
    answer_error(c, ip, icmp_type, icmp_code, rest)


cdef void icmp_error(Ctx *c, const IpHdr *ip, uint8_t icmp_type, uint8_t icmp_code) noexcept nogil:
    refuse(c, ip, icmp_type, icmp_code, 0)


cdef void icmp_problem(Ctx *c, const IpHdr *ip) noexcept nogil:
    """RFC 4443 3.4: a header of the guest's is wrong. Only an unknown option is told to a group's
    sender (2.4 (e.3)).
    """
    if not may_be_told(c, ip) or (not fwd_is_unicast(c, &ip.dst)
                                  and ip.problem_code != PROBLEM_OPTION):
        return
    answer_error(c, ip, ICMP6_PARAMETER_PROBLEM, <uint8_t>ip.problem_code, ip.problem_at)


cdef void icmp_beyond_scope(Ctx *c, const IpHdr *ip) noexcept nogil:
    """RFC 4443 3.1: a link-local source asks for what is off the link."""
    if may_be_told(c, ip) and fwd_is_unicast(c, &ip.dst):
        answer_error(c, ip, ICMP6_UNREACHABLE, ICMP6_BEYOND_SCOPE, 0)


cdef void icmp_refuse(Ctx *c, const IpHdr *ip, int error) noexcept nogil:
    """The host would not take a datagram of the guest's, with that errno: tell it as a router
    would.
    """
    cdef int icmp_code = icmp_code_of_errno(error)
    if icmp_code >= 0:
        refuse(c, ip, ICMP_UNREACHABLE, <uint8_t>icmp_code, 0)


cdef uint32_t build_quote(uint8_t *p, const Addr *guest_addr, const Addr *dest, uint8_t proto,
                          uint32_t payload_bytes) noexcept nogil:
    """The IP header that the guest had sent, as far as it is known still; its length."""
    if not addr_is4(guest_addr):
        memset(p, 0, IP6_HLEN)
        p[0] = 0x60
        store_be16(p + 4, <uint16_t>payload_bytes)
        p[6] = proto
        p[7] = IP_TTL_DEFAULT
        memcpy(p + 8, guest_addr.b, 16)
        memcpy(p + 24, dest.b, 16)
        return IP6_HLEN
    memset(p, 0, IP4_HLEN)
    p[0] = 0x45
    store_be16(p + 2, <uint16_t>(IP4_HLEN + payload_bytes))
    store_be16(p + 6, IP4_DF)
    p[8] = IP_TTL_DEFAULT
    p[9] = proto
    store_be32(p + 12, addr_get4(guest_addr))
    store_be32(p + 16, addr_get4(dest))
    csum_store(p + 10, csum_add(0, p, IP4_HLEN))
    return IP4_HLEN


cdef void icmp_unreachable_for_tcp(Ctx *c, const Flow *flow, uint8_t icmp_code) noexcept nogil:
    """The guest's SYN could not be delivered: destination unreachable."""
    cdef uint8_t quote[IP6_HLEN + TCP_HLEN]
    cdef uint8_t icmp_type = ICMP_UNREACHABLE
    cdef uint32_t n = build_quote(quote, &flow.key.guest_addr, &flow.key.dest_addr, IP_PROTO_TCP,
                                  TCP_HLEN)
    if not addr_is4(&flow.key.guest_addr):
        icmp6_of_icmp(&icmp_type, &icmp_code)
    memset(quote + n, 0, TCP_HLEN)
    store_be16(quote + n, flow.key.guest_port)
    store_be16(quote + n + 2, flow.key.dest_port)
    store_be32(quote + n + 4, flow.body.tcp.irs)
    quote[n + 12] = 0x50
    quote[n + 13] = 0x02
    send_error(c, &flow.key.guest_addr, flow.guest_mac, icmp_type, icmp_code, 0, quote,
               n + TCP_HLEN, icmp_speaker(c, &flow.key.guest_addr))


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
    icmp_type[0] = error.icmp_type
    icmp_code[0] = error.icmp_code
    if error.from_icmp6:
        return icmp_of_icmp6(icmp_type, icmp_code)
    if error.from_icmp:
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
    cdef Addr src = icmp_speaker(c, &flow.key.guest_addr)[0]
    if not from_error(error, &icmp_type, &icmp_code):
        return
    if icmp_type == ICMP_UNREACHABLE and icmp_code == ICMP_FRAG_NEEDED:
        rest = min(error.mtu, <uint32_t>0xFFFF)
    if not addr_is4(&flow.key.guest_addr):
        icmp6_of_icmp(&icmp_type, &icmp_code)
    if fwd_is_ours(c, dest):
        src = dest[0]
    elif error.from_icmp or error.from_icmp6:
        fwd_guest_view(c, &flow.key.guest_addr, &error.offender_addr, &src)
    send_error(c, &flow.key.guest_addr, flow.guest_mac, icmp_type, icmp_code, rest, quote, n, &src)


cdef bint quotes(const Sent *sent, const Addr *dest, uint16_t dest_port) noexcept nogil:
    """What was kept is about a datagram to there."""
    cdef bint v4 = addr_is4(dest)
    if not sent.valid or load_be16(sent.b + sent.header_bytes + 2) != dest_port:
        return False
    return memcmp(sent.b + (16 if v4 else 24), &dest.b[12] if v4 else dest.b, 4 if v4 else 16) == 0


cdef void icmp_error_for_udp(Ctx *c, const Flow *flow, const Addr *dest, uint16_t dest_port,
                             const HostError *error) noexcept nogil:
    """A datagram of this flow to `dest`:`dest_port` met an error on its way."""
    cdef uint8_t built[IP6_HLEN + UDP_HLEN]
    cdef const uint8_t *quote = flow.body.udp.sent.b
    cdef uint32_t n = flow.body.udp.sent.header_bytes
    if not quotes(&flow.body.udp.sent, dest, dest_port):
        n = build_quote(built, &flow.key.guest_addr, dest, IP_PROTO_UDP, UDP_HLEN)
        store_be16(built + n, flow.key.guest_port)
        store_be16(built + n + 2, dest_port)
        store_be16(built + n + 4, UDP_HLEN)
        store_be16(built + n + 6, 0)
        quote = built
    error_for_flow(c, flow, dest, error, quote, n + UDP_HLEN)


cdef void error_for_ping(Ctx *c, const Flow *flow, const HostError *error) noexcept nogil:
    """An echo request met an error on its way: not always the last, since traceroute has many out.
    """
    cdef Sent sent = flow.body.ping.sent
    if error.has_echo_seq:
        store_be16(sent.b + sent.header_bytes + 6, error.echo_seq)
    error_for_flow(c, flow, &flow.key.dest_addr, error, sent.b, sent.header_bytes + ICMP_HLEN)


cdef void icmp_take_errors(Ctx *c, Flow *flow, uint32_t *mtu) noexcept nogil:
    """Report what waits in the error queue of a flow's own socket; to `mtu`, if it is there, goes
    what the host itself has just refused something for.
    """
    cdef HostError error
    cdef int _
    for _ in range(ERRORS_BATCH):
        if c.host.next_error(c.host.impl, flow.fd, &error) <= 0:
            break
        if mtu != NULL and error.error == EMSGSIZE and not (error.from_icmp or error.from_icmp6):
            mtu[0] = error.mtu
        elif flow.kind == FLOW_PING:
            error_for_ping(c, flow, &error)
        elif flow.kind == FLOW_UDP:
            # Of a datagram that the guest can have sent
            if addr_is4(&error.peer_addr) == addr_is4(&flow.key.guest_addr):
                icmp_error_for_udp(c, flow, &error.peer_addr, error.peer_port, &error)
        else:
            icmp_error_for_udp(c, flow, &flow.key.dest_addr, flow.key.dest_port, &error)


cdef uint8_t icmp_cutting(const IpHdr *ip) noexcept nogil:
    """Whether the host may cut a datagram, or each of a train."""
    cdef uint32_t n = UDP_HLEN + ip.gso_size if ip.gso_size else ip.payload_bytes
    cdef bint whole = ip.v6 or load_be16(ip.header + 6) & IP4_DF
    if whole and not ip.reassembled and ip.header_bytes + n <= ETHERNET_MTU:
        return CUTTING_FORBIDDEN
    return CUTTING_ALLOWED


cdef void keep_start(Sent *sent, const IpHdr *ip) noexcept nogil:
    """What a router would quote, less IP's options and extension headers."""
    cdef uint32_t n = ip_hlen(&ip.dst)
    memcpy(sent.b, ip.header, n)
    memcpy(sent.b + n, ip.payload, 8)
    sent.header_bytes = <uint8_t>n
    sent.valid = True
    if ip.header_bytes == n:
        return
    if ip.v6:
        store_be16(sent.b + 4, <uint16_t>ip.payload_bytes)
        sent.b[6] = ip.proto
        return
    sent.b[0] = 0x45
    store_be16(sent.b + 2, <uint16_t>(n + ip.payload_bytes))
    store_be16(sent.b + 10, 0)
    csum_store(sent.b + 10, csum_add(0, sent.b, n))


cdef ssize_t icmp_tracked_send(Ctx *c, Flow *flow, const IpHdr *ip,
                               const Datagram *datagram) noexcept nogil:
    """Send a datagram of the guest's by the flow's own socket, cut or not as the guest wishes, and
    keep what an error about it will quote. What dgram_send gives; at -EMSGSIZE the guest is told.
    """
    cdef uint8_t *cutting = &flow.body.udp.cutting
    cdef Sent *sent = &flow.body.udp.sent
    cdef uint8_t wish = icmp_cutting(ip)
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
        icmp_take_errors(c, flow, &mtu)
        if mtu:
            refuse(c, ip, ICMP_UNREACHABLE, ICMP_FRAG_NEEDED, min(mtu, <uint32_t>0xFFFF))
    return result
