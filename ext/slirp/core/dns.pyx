# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""DNS by UDP: see dns.pxd for the theory."""
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from .conn cimport FLOW_DNS, DnsFlow, FlowKey
from .ctx cimport DNS_MAX
from .flow cimport flow_handle, flow_lookup, flow_use
from .fwd cimport DNS_PORT, fwd_dns_left, fwd_dns_next, fwd_dns_verdict, fwd_takes_query
from .hostops cimport EVENT_ERROR, REF_FLOW, Datagram, HostError, ref_make
from .icmp cimport icmp_error_for_udp
from .linux cimport EMFILE, ENFILE
from .stats cimport CTR_DNS_FAILOVERS, DROP_FLOWS_FULL, DROP_NONE, stats_count
from .timers cimport timer_set
from .train cimport train_arrive_one, train_receive_one, train_refuse
from .udp cimport udp_close, udp_open, udp_parse, udp_timeout
from .wire cimport ETH_ALEN, UDP_HLEN, VNET_GSO_UDP_L4, addr_is4, load_be16

cdef enum:
    DNS_HLEN = 12                   # RFC 1035 4.1.1
    DNS_QR = 0x80                   # in the third byte: it is a response
    DNS_RCODE = 0x0F                # in the fourth
    DNS_SERVFAIL = 2
    DNS_NOTIMP = 4
    DNS_REFUSED = 5
    DNS_NEXT_US = 1000000           # a server's time alone
    DNS_KEPT_MAX = 65536            # bytes of all queries kept; one beyond is put to one server
    DNS_BATCH = 8                   # datagrams read from one socket before others have their turn


# ---- asking ------------------------------------------------------------------------------------

cdef ssize_t put(Ctx *c, DnsFlow *d, int attempt, const uint8_t *data, uint32_t n) noexcept nogil:
    """Send the query to one who has been chosen. What dgram_send gives."""
    cdef Datagram datagram
    memset(&datagram, 0, sizeof(Datagram))
    datagram.peer_addr = d.udp.peer_addr
    datagram.peer_port = DNS_PORT
    datagram.data = <uint8_t *>data
    datagram.length = n
    return c.host.dgram_send(c.host.impl, d.fds[attempt], &datagram)


cdef int ask_next(Ctx *c, Flow *flow, const uint8_t *data, uint32_t n) noexcept nogil:
    """Put the query to the next server that can be reached. 0, or -errno of the last that could
    not; 1 when none was left.
    """
    cdef DnsFlow *d = &flow.body.dns
    cdef int result = 1
    cdef ssize_t sent
    cdef int fd
    d.next_due_us = 0
    while d.n_asked < DNS_MAX and fwd_dns_next(c, &d.tries, &d.udp.peer_addr):
        if d.tries.tried & (d.tries.tried - 1):
            stats_count(&c.stats, CTR_DNS_FAILOVERS)
        fd = c.host.udp_open(c.host.impl, ref_make(REF_FLOW, flow_handle(flow)),
                             addr_is4(&d.udp.peer_addr), &d.udp.peer_addr, DNS_PORT)
        if fd == -EMFILE or fd == -ENFILE:
            return fd                               # our trouble, not the server's
        result = fd
        if fd >= 0:
            d.fds[d.n_asked] = fd
            d.asked[d.n_asked] = d.tries.server
            d.n_asked += 1
            sent = put(c, d, d.n_asked - 1, data, n)
            if sent >= 0:
                d.n_open += 1
                if d.query != NULL and fwd_dns_left(c, &d.tries):
                    d.next_due_us = c.now_us + DNS_NEXT_US
                    timer_set(&c.timers, &flow.timer, d.next_due_us)
                return 0
            c.host.close(c.host.impl, fd)
            d.fds[d.n_asked - 1] = -1
            result = <int>sent
        fwd_dns_verdict(c, d.tries.generation, d.tries.server, False)
    return result


cdef void keep(Ctx *c, DnsFlow *d, const uint8_t *data, uint32_t n) noexcept nogil:
    """Keep the query for other servers, if there is room."""
    c.dns_kept_bytes -= d.query_bytes
    free(d.query)
    d.query = NULL
    d.query_bytes = 0
    if n == 0 or c.dns_kept_bytes + n > DNS_KEPT_MAX:
        return
    d.query = <uint8_t *>malloc(n)
    if d.query != NULL:
        memcpy(d.query, data, n)
        d.query_bytes = <unsigned short>n
        c.dns_kept_bytes += n


cdef void ask_again(Ctx *c, DnsFlow *d, const uint8_t *data, uint32_t n) noexcept nogil:
    """The guest has lost patience: everybody who was asked, and has not failed, is asked again."""
    cdef int i
    for i in range(d.n_asked):
        if d.fds[i] >= 0:
            put(c, d, i, data, n)


cdef Drop query(Ctx *c, const IpHdr *ip, FlowKey *key, const uint8_t *data,
                uint32_t n) noexcept nogil:
    """One query of the guest's."""
    cdef Flow *flow
    cdef int result
    key.dest_port = load_be16(data) if n >= 2 else 0
    key.is_query = True
    flow = flow_lookup(&c.flows, key)
    if flow == NULL:
        flow = udp_open(c, key, FLOW_DNS)
        if flow == NULL:
            return DROP_FLOWS_FULL
    flow_use(&c.flows, flow)
    flow.last_us = c.now_us
    memcpy(flow.guest_mac, c.frame_mac, ETH_ALEN)
    keep(c, &flow.body.dns, data, n)
    if flow.body.dns.n_open:
        ask_again(c, &flow.body.dns, data, n)
        return DROP_NONE
    result = ask_next(c, flow, data, n)
    if result == 0:
        return DROP_NONE
    udp_close(c, flow)
    return train_refuse(c, ip, -result)


cdef bint dns_is_for(Ctx *c, const IpHdr *ip) noexcept nogil:
    """A datagram for the name servers of the host, if there are any."""
    return ip.payload_bytes >= UDP_HLEN and fwd_takes_query(c, &ip.dst, load_be16(ip.payload + 2))


cdef Drop dns_input(Ctx *c, const IpHdr *ip) noexcept nogil:
    """A query of the guest's, or a train of them."""
    cdef const uint8_t *p = ip.payload + UDP_HLEN
    cdef uint32_t left = 0
    cdef uint32_t n
    cdef FlowKey key
    cdef Drop d = udp_parse(ip, &key, &left)
    while d == DROP_NONE:
        n = min(left, <uint32_t>ip.gso_size) if ip.gso_type == VNET_GSO_UDP_L4 else left
        d = query(c, ip, &key, p, n)
        p += n
        left -= n
        if left == 0:
            break
    return d


# ---- answers -----------------------------------------------------------------------------------

cdef bint failed(Ctx *c, Flow *flow, int attempt) noexcept nogil:
    """One who was asked is of no use: ask another. True when nobody is left who could answer."""
    cdef DnsFlow *d = &flow.body.dns
    c.host.close(c.host.impl, d.fds[attempt])
    d.fds[attempt] = -1
    d.n_open -= 1
    if d.query != NULL:
        ask_next(c, flow, d.query, d.query_bytes)
    return d.n_open == 0


cdef bint take_errors(Ctx *c, Flow *flow, int attempt) noexcept nogil:
    """An ICMP error, or another, about the query. True when the flow has ended by it."""
    cdef DnsFlow *d = &flow.body.dns
    cdef HostError error
    if c.host.next_error(c.host.impl, d.fds[attempt], &error) <= 0:
        return False
    fwd_dns_verdict(c, d.tries.generation, d.asked[attempt], False)
    if not failed(c, flow, attempt):
        return False
    icmp_error_for_udp(c, flow, &flow.key.dest_addr, DNS_PORT, &error)
    udp_close(c, flow)
    return True


cdef bint take_answer(Ctx *c, Flow *flow, int attempt, Datagram *datagram) noexcept nogil:
    """A datagram from a server. True when the flow has ended by it."""
    cdef DnsFlow *d = &flow.body.dns
    cdef const uint8_t *p = datagram.data
    cdef uint8_t rcode
    cdef bint answer = (datagram.length >= DNS_HLEN and datagram.segment_bytes == 0
                        and load_be16(p) == flow.key.dest_port and p[2] & DNS_QR != 0)
    fwd_dns_verdict(c, d.tries.generation, d.asked[attempt], True)
    if answer:
        rcode = p[3] & DNS_RCODE
        if ((rcode == DNS_SERVFAIL or rcode == DNS_NOTIMP or rcode == DNS_REFUSED)
                and not failed(c, flow, attempt)):
            return False
    train_arrive_one(c, flow, &flow.key.dest_addr, DNS_PORT, datagram)
    if answer:
        udp_close(c, flow)
    return answer


cdef bint serve(Ctx *c, Flow *flow, int attempt, uint32_t events) noexcept nogil:
    """What waits at the socket of one attempt. True when the flow has ended by it."""
    cdef DnsFlow *d = &flow.body.dns
    cdef Datagram datagram
    cdef int _
    if events & EVENT_ERROR and take_errors(c, flow, attempt):
        return True
    for _ in range(DNS_BATCH):
        if d.fds[attempt] < 0 or not train_receive_one(c, d.fds[attempt], &datagram):
            return False
        if take_answer(c, flow, attempt, &datagram):
            return True
    return False


cdef void dns_on_host_event(Ctx *c, Flow *flow, uint32_t events) noexcept nogil:
    """One of a query's sockets has news: it is not said which."""
    cdef int n = flow.body.dns.n_asked
    cdef int i
    for i in range(n):
        if flow.body.dns.fds[i] >= 0 and serve(c, flow, i, events):
            return


cdef void dns_on_timer(Ctx *c, Flow *flow) noexcept nogil:
    """The latest server has had its second, or the query its time."""
    cdef DnsFlow *d = &flow.body.dns
    if d.next_due_us and d.next_due_us <= c.now_us:
        d.next_due_us = 0
        if d.query != NULL:
            fwd_dns_verdict(c, d.tries.generation, d.tries.server, d.udp.replied)
            ask_next(c, flow, d.query, d.query_bytes)
    if flow.last_us + udp_timeout(c, flow) <= c.now_us:
        udp_close(c, flow)
        return
    timer_set(&c.timers, &flow.timer, flow.last_us + udp_timeout(c, flow))
    if d.next_due_us:
        timer_set(&c.timers, &flow.timer, d.next_due_us)
