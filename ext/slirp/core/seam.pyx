# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Python's side of the stack: see seam.pxd for the theory."""
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, strerror

from .conn cimport FLOW_FREE, FLOW_TCP, Flow
from .ctx cimport DNS_MAX
from .flow cimport SLAB_FLOWS, flow_at
from .frag cimport frag_count
from .hostops cimport Host
from .punt cimport punt_reply, punt_take
from .stack cimport (
    stack_add_forward, stack_destroy, stack_host_event, stack_init, stack_input,
    stack_remove_forward, stack_run_timers, stack_serve,
)
from .stats cimport stats_as_dict
from .timers cimport timers_next
from .wire cimport (
    ETH_ALEN, IP6_MTU_MIN, IP_PROTO_TCP, IP_PROTO_UDP, addr_is4, addr_set4, load_be32, usec_t,
)

# By the values of FlowKind (conn.pxd), TcpState and HostState (tcp.pxd).
FLOW_KINDS = ("free", "tcp", "udp", "udp-peer", "udp-forward", "ping", "dns")
TCP_STATES = ("CLOSED", "SYN-SENT", "SYN-RECEIVED", "ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2",
              "CLOSE-WAIT", "CLOSING",
              "LAST-ACK", "TIME-WAIT")
HOST_STATES = ("CONNECTING", "OPEN", "CLOSED")
# fe80::2, as slirp4netns's: from where the gateway advertises itself (RFC 4861 4.2).
GATEWAY_LINK_LOCAL = bytes.fromhex("fe800000000000000000000000000002")


# ---- in: settings, servers, forwards -----------------------------------------------------------

cdef void take_addr4(Addr *addr, bytes wire) except *:
    if len(wire) != 4:
        raise ValueError("an IPv4 address has 4 bytes")
    addr_set4(addr, <const uint8_t *><const char *>wire)


cdef void take_addr6(Addr *addr, bytes wire) except *:
    """An IPv6 address; none in IPv4's mapped form, which means IPv4 here."""
    if len(wire) != 16:
        raise ValueError("an IPv6 address has 16 bytes")
    memcpy(addr.b, <const char *>wire, 16)
    if addr_is4(addr):
        raise ValueError("an IPv6 address, not one of IPv4")


cdef void configure6(Ctx *c, dict settings) except *:
    """The IPv6 half, where `network6` is given."""
    cdef int prefix = settings["prefix_len6"]
    cdef int i
    if not 1 <= prefix <= 126:
        raise ValueError("an IPv6 prefix has 1 to 126 bits")
    take_addr6(&c.conf.network6, settings["network6"])
    take_addr6(&c.conf.gateway6, settings["gateway6"])
    take_addr6(&c.conf.dns6, settings["dns6"])
    take_addr6(&c.conf.guest6, settings["guest6"])
    take_addr6(&c.conf.link_local6, GATEWAY_LINK_LOCAL)
    if settings["mtu"] < IP6_MTU_MIN:
        raise ValueError("IPv6 needs an MTU of 1280 bytes")
    for i in range(16):
        c.conf.mask6.b[i] = <uint8_t>(0xFF00 >> min(max(prefix - 8 * i, 0), 8))
    for i in range(2):
        c.conf.network6.w[i] &= c.conf.mask6.w[i]
    c.conf.ip6 = True


cdef void seam_configure(Ctx *c, dict settings) except *:
    """Fill `Ctx.conf`; the names are those of Engine's arguments. Raises KeyError or ValueError."""
    cdef bytes gateway_mac = settings["gateway_mac"]
    cdef bytes guest_mac = settings["guest_mac"]
    cdef bytes network = settings["network4"]
    cdef int prefix = settings["prefix_len4"]
    if (len(gateway_mac) != ETH_ALEN or len(guest_mac) != ETH_ALEN or not 1 <= prefix <= 32
            or len(network) != 4):
        raise ValueError("hardware addresses have 6 bytes, networks 4, prefixes 1 to 32 bits")
    if not 576 <= settings["mtu"] <= 65535:
        raise ValueError("the MTU lies between 576 and 65535")
    memcpy(c.conf.gateway_mac, <const char *>gateway_mac, ETH_ALEN)
    memcpy(c.conf.guest_mac, <const char *>guest_mac, ETH_ALEN)
    take_addr4(&c.conf.gateway4, settings["gateway4"])
    take_addr4(&c.conf.dns4, settings["dns4"])
    take_addr4(&c.conf.guest4, settings["guest4"])
    c.conf.mask4 = <uint32_t>(0xFFFFFFFF << (32 - prefix) & 0xFFFFFFFF)
    c.conf.network4 = load_be32(<const uint8_t *><const char *>network) & c.conf.mask4
    if settings.get("network6") is not None:
        configure6(c, settings)
    c.conf.mtu = settings["mtu"]
    c.conf.offload = settings["offload"]
    c.conf.host_loopback = settings["host_loopback"]
    c.conf.dns_enabled = settings["dns_enabled"]
    c.conf.tcp_buffer_bytes = settings["tcp_buffer_bytes"]
    c.conf.max_half_open = c.conf.max_udp_flows = max(1, settings["max_flows"] // 4)
    c.conf.max_ping_flows = min(1024, c.conf.max_udp_flows)
    replied_s, unreplied_s, dns_s = settings.get("udp_timeouts_s", (180, 30, 10))
    c.conf.udp_replied_us = replied_s * 1000000
    c.conf.udp_unreplied_us = unreplied_s * 1000000
    c.conf.udp_dns_us = dns_s * 1000000


cdef void seam_take_addr(Addr *addr, bytes wire) except *:
    """An address of either family; IPv4's mapped form is IPv4."""
    if len(wire) == 4:
        addr_set4(addr, <const uint8_t *><const char *>wire)
    elif len(wire) == 16:
        memcpy(addr.b, <const char *>wire, 16)
    else:
        raise ValueError("an address has 4 or 16 bytes")


cdef void seam_set_dns(Ctx *c, list servers) except *:
    """The host's name servers, 4 or 16 bytes each, in order."""
    cdef bytes server
    cdef int n = 0
    for server in servers[:DNS_MAX]:
        seam_take_addr(&c.dns_servers[n].addr, server)
        c.dns_servers[n].dead_until_us = 0
        n += 1
    c.dns_generation += 1
    c.n_dns = n


cdef int seam_forward(Ctx *c, str proto, int fd, bytes guest_addr, uint16_t guest_port) except 0:
    """The id of a new forward. Raises ValueError for arguments, OSError when the host or the table
    refuses.
    """
    cdef int index
    cdef Addr guest
    if proto not in ("tcp", "udp") or guest_port == 0:
        raise ValueError("proto is tcp or udp, and the guest's port is not 0")
    seam_take_addr(&guest, guest_addr)
    index = stack_add_forward(c, IP_PROTO_TCP if proto == "tcp" else IP_PROTO_UDP, fd, &guest,
                              guest_port)
    if index < 0:
        raise OSError(-index, strerror(-index).decode())
    return index + 1


# ---- out: what goes on -------------------------------------------------------------------------

cdef bytes addr_bytes(const Addr *addr):
    """4 bytes, or 16."""
    if addr_is4(addr):
        return (<const char *>&addr.b[12])[:4]
    return (<const char *>addr.b)[:16]


cdef list seam_flows(Ctx *c):
    """A copy of what each flow is doing."""
    cdef list out = []
    cdef uint32_t i
    cdef Flow *flow
    for i in range(c.flows.n_slabs * SLAB_FLOWS):
        flow = flow_at(&c.flows, i)
        if flow.kind == FLOW_FREE:
            continue
        entry = {
            "kind": FLOW_KINDS[flow.kind],
            "guest_addr": addr_bytes(&flow.key.guest_addr), "guest_port": flow.key.guest_port,
            "dest_addr": addr_bytes(&flow.key.dest_addr), "dest_port": flow.key.dest_port,
            "fd": flow.fd, "idle_us": c.now_us - flow.last_us,
        }
        if flow.kind == FLOW_TCP:
            entry["state"] = TCP_STATES[flow.body.tcp.state]
            entry["host_state"] = HOST_STATES[flow.body.tcp.host_state]
            entry["to_guest_bytes"] = flow.body.tcp.sq.length
            entry["to_host_bytes"] = flow.body.tcp.rq.length
            entry["srtt_us"] = flow.body.tcp.srtt_us
        out.append(entry)
    return out


cdef dict seam_stats(Ctx *c):
    """Counters by name, and gauges: flows, timers, blocks of memory in use, bytes of a flow,
    datagrams in pieces.
    """
    cdef dict out = stats_as_dict(&c.stats)
    out["flows"] = c.flows.n_flows
    out["timers"] = c.timers.armed
    out["buffer_blocks"] = c.pool.used_blocks
    out["flow_bytes"] = sizeof(Flow)
    out["reassemblies"] = frag_count(c)
    return out


# ---- the whole, for tests ----------------------------------------------------------------------

@cython.final
@cython.no_gc_clear         # the host has to outlive the sockets that __dealloc__ closes
cdef class Stack:
    """The stack over a Host, without I/O of its own (tests, simulations).

    Settings are Engine's keyword arguments; times are microseconds of any clock that does not go
    back.
    """
    cdef Ctx *c
    cdef Host host

    def __cinit__(self, Host host not None, usec_t now_us=0, **settings):
        self.c = <Ctx *>calloc(1, sizeof(Ctx))
        if self.c == NULL or not stack_init(self.c, settings["max_flows"], settings["memory_bytes"],
                                            now_us):
            raise MemoryError
        self.host = host
        self.c.host = host.ops
        self.c.link = host.link
        seam_configure(self.c, settings)

    def __dealloc__(self):
        if self.c != NULL:
            stack_destroy(self.c)
            free(self.c)

    def input(self, bytes frame not None, usec_t now_us):
        """A frame of the guest's, behind its 12 bytes of virtio-net header; then all that follows
        from it.
        """
        self.input_batch([frame], now_us)

    def input_batch(self, list frames not None, usec_t now_us):
        """The same for frames that were read together."""
        cdef bytes frame
        cdef uint8_t *exact
        self.c.now_us = now_us
        for frame in frames:
            exact = <uint8_t *>malloc(max(len(frame), 1))   # a sanitizer sees each byte too far
            if exact == NULL:
                raise MemoryError
            memcpy(exact, <const char *>frame, len(frame))
            stack_input(self.c, exact, <uint32_t>len(frame))
            free(exact)
        self._settle()

    def host_event(self, uint64_t ref, uint32_t events, usec_t now_us):
        """A socket of the host has news; `ref` as it was handed to the Host."""
        self.c.now_us = now_us
        stack_host_event(self.c, ref, events)
        self._settle()

    def run_timers(self, usec_t now_us):
        self.c.now_us = now_us
        stack_run_timers(self.c)
        self._settle()

    cdef void _settle(self) noexcept:
        while stack_serve(self.c):
            pass

    def next_deadline(self):
        """When run_timers has to be called, in microseconds; None: no timer is set."""
        cdef usec_t at = timers_next(&self.c.timers)
        return None if at == ~<usec_t>0 else at

    def set_dns(self, list servers not None):
        seam_set_dns(self.c, servers)

    def add_forward(self, str proto, int fd, bytes guest_addr, uint16_t guest_port):
        """As Engine.add_forward. Raises OSError."""
        return seam_forward(self.c, proto, fd, guest_addr, guest_port)

    def remove_forward(self, int forward_id):
        return stack_remove_forward(self.c, <uint32_t>forward_id - 1)

    def punted(self):
        return punt_take(self.c)

    def send_frame(self, bytes frame not None):
        punt_reply(self.c, frame)

    def stats(self):
        """Counters by name, and what is in use now."""
        return seam_stats(self.c)

    def flows(self):
        return seam_flows(self.c)
