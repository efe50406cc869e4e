# cython: language_level=3
"""Ctx: all that a handler may touch. One per Stack; nothing in ext/ is global and mutable."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .blocks cimport BlockPool
from .conn cimport Flow
from .flow cimport FlowTable
from .hostops cimport Datagram, HostOps, LinkOps
from .rate cimport RateLimit
from .siphash cimport SipKey
from .stats cimport Stats
from .timers cimport TimerNode, TimerWheel
from .wire cimport FRAME_MAX_BYTES, HEADROOM_BYTES, Addr, IpHdr, usec_t


cdef enum:
    NEIGH_SLOTS = 64                # guests whose hardware address is known
    NEIGH_WANTED_MAX = 8            # and those that are looked for at a time
    FORWARDS_MAX = 1024
    DNS_MAX = 8
    TRAIN_BYTES = 65000             # of UDP payload, put together
    FRAG_DATAGRAMS_MAX = 64         # in pieces, at a time
    FRAG_PIECES_MAX = 128           # of one: 65,535 bytes over an MTU of 576
    FRAG_HEADER_MAX = 128           # bytes of the first piece's IP header, with extensions
    PUNT_FRAMES = 32                # that wait for the control plane at a time
    PUNT_FRAME_BYTES = 1514         # of each, behind its virtio header

    LINK_CSUM = 1                   # the guest takes NEEDS_CSUM (TUN_F_CSUM)
    LINK_TSO4 = 2                   # and unsegmented TCP (TUN_F_TSO4, TUN_F_TSO6)
    LINK_TSO6 = 4
    LINK_TSO_ECN = 8
    LINK_USO4 = 32                  # and unsegmented UDP (TUN_F_USO4, TUN_F_USO6)
    LINK_USO6 = 64


cdef struct Conf:                   # written once, by Stack
    uint32_t mtu
    uint8_t gateway_mac[6]
    uint8_t guest_mac[6]            # of the TAP; all zero: unknown
    Addr gateway4
    Addr dns4
    Addr guest4
    uint32_t network4
    uint32_t mask4
    bint ip6                        # the rest of the family is set only then
    Addr network6                   # the prefix, zero behind its length
    Addr mask6
    Addr gateway6
    Addr dns6
    Addr guest6
    Addr link_local6                # the gateway's, from which it speaks as a router (RFC 4861 4.2)
    uint32_t offload                # LINK_*, as TUNSETOFFLOAD granted them
    bint host_loopback
    bint dns_enabled
    uint32_t tcp_buffer_bytes       # per connection and direction
    uint32_t max_half_open
    uint32_t max_udp_flows
    uint32_t max_ping_flows
    usec_t udp_replied_us           # how long a mapping lives without a datagram: once answered,
    usec_t udp_unreplied_us         # before that,
    usec_t udp_dns_us               # and a query


cdef struct Neigh:                  # a guest's address and where its frames come from
    Addr addr
    uint8_t mac[6]
    bint valid


cdef struct NeighWanted:            # a guest's address that somebody has something for
    Addr addr
    usec_t asked_us                 # 0: free
    bint due                        # to be asked for when the batch is over


cdef struct Piece:                  # of a datagram's payload: [start, end)
    uint16_t start
    uint16_t end


cdef struct Reassembly:             # a datagram in pieces (frag.pyx)
    bint used
    bint dead                       # pieces overlapped: what else comes of it is swallowed
    bint v6
    uint8_t proto
    Addr src
    Addr dst
    uint32_t id
    usec_t started_us
    usec_t expires_us
    uint8_t *data                   # the first piece's header ends at FRAG_HEADER_MAX; the payload
                                    # follows
    uint32_t capacity
    uint32_t total                  # bytes of payload; 0: the last piece has not come
    uint32_t have
    uint32_t n_pieces               # in order, disjoint
    Piece pieces[128]
    uint32_t header_bytes           # of the first piece's header; 0: it has not come
    uint32_t next_header_at
    uint32_t first_bytes
    uint8_t first_proto
    uint8_t ttl
    uint8_t tos
    uint8_t mac[6]


cdef struct DnsServer:              # a name server of the host
    Addr addr
    usec_t dead_until_us            # others are asked before it until then


cdef struct Forward:                # a port of the host that leads into the guest
    int fd                          # -1: free
    uint8_t proto
    Addr guest_addr
    uint16_t guest_port
    uint32_t generation
    uint8_t cutting                 # Cutting (conn.pxd), of UDP
    bint waiting                    # TCP: clients may be left that could not be taken yet


cdef struct PuntedFrame:            # a frame that the control plane will answer
    uint32_t length
    uint8_t data[1514]


cdef struct Train:                  # datagrams of the guest's, held until the batch is over
    Flow *flow                      # NULL: none
    uint32_t count
    IpHdr ip                        # of the first
    bint joinable                   # who has its headers needs no look but at what differs
    uint8_t link[26]                # its virtio-net and Ethernet header
    Datagram datagram               # all of them; segment_bytes is the first one's length
    uint8_t header[65000 + 512]     # the first one's headers, then TRAIN_BYTES of payload


cdef struct Ctx:
    usec_t now_us                   # of the batch in hand
    Conf conf
    SipKey secret                   # for sequence numbers and time-stamps; the flow table has its
                                    # own
    Stats stats
    FlowTable flows
    TimerWheel timers
    BlockPool pool
    HostOps host
    LinkOps link
    uint32_t served                 # connections, in the last batch
    uint32_t pull_bytes             # what one may read from the host in this batch
    Flow *touched                   # flows to be served when the batch is over, first to last
    Flow *touched_last
    const uint8_t *frame            # the frame in hand, from its Ethernet header on
    uint32_t frame_bytes
    uint8_t frame_mac[6]            # its source
    Neigh neigh[64]
    NeighWanted wanted[8]           # NEIGH_WANTED_MAX
    bint wanted_due                 # one of them is
    DnsServer dns_servers[8]        # DNS_MAX
    uint32_t n_dns
    uint32_t dns_generation         # of that list
    uint32_t dns_kept_bytes         # of queries that wait for their answers
    Forward *forwards               # FORWARDS_MAX of them
    uint64_t fragments_sent         # datagrams sent in pieces
    Reassembly frags[64]
    Reassembly *frag_whole          # handed out, until frag_done
    uint32_t frag_bytes             # of memory
    TimerNode frag_timer
    TimerNode accept_timer          # set while a forward is `waiting`
    bint ping_forbidden             # the host has refused a ping socket: to be told, once
    RateLimit icmp_limit
    RateLimit challenge_limit
    RateLimit punt_limit
    PuntedFrame punted[32]
    uint32_t n_punted
    Train train
    uint32_t singles                # datagrams of this batch that came singly
    uint8_t scratch[2 * (65535 + 14) + 138]     # datagrams of the host, behind room for headers


cdef inline void touch(Ctx *c, Flow *flow) noexcept nogil:
    """Have the flow served when the batch is over."""
    if flow.touched:
        return
    flow.touched = True
    flow.touched_next = NULL
    if c.touched_last != NULL:
        c.touched_last.touched_next = flow
    else:
        c.touched = flow
    c.touched_last = flow
