# cython: language_level=3
"""Every way a frame can end, counted once, and what else the daemon counts.

The enums are the only list: Python sees the names in lower case without their prefix. `stack_input`
counts the Drop that a handler returns; a handler never counts a drop of its own frame itself.
"""
from libc.stdint cimport uint64_t


cpdef enum Drop:
    DROP_NONE = 0                       # the frame did what it came for
    DROP_VNET_MALFORMED                 # its virtio header contradicts the frame
    DROP_ETH_TRUNCATED
    DROP_ETH_NOT_FOR_US
    DROP_ETH_TYPE_UNKNOWN
    DROP_ARP_MALFORMED
    DROP_ARP_NOT_FOR_US                 # asks for, or announces, an address that is not ours
    DROP_IP4_MALFORMED                  # version, lengths or options do not fit the frame
    DROP_IP4_BAD_CHECKSUM
    DROP_IP4_TINY_FRAGMENT              # RFC 1858: the first hides its TCP header from filters
    DROP_IP4_SOURCE_ROUTE               # RFC 7126 4.3: options that route are refused
    DROP_IP4_BAD_SOURCE                 # RFC 1122 3.2.1.3: broadcast, multicast, loopback, or one
                                        # of our own addresses
    DROP_IP4_BAD_DESTINATION            # loopback, broadcast, multicast, or unused inside the
                                        # subnet
    DROP_IP4_TTL_EXPIRED                # RFC 1812 5.3.1: answered with time exceeded
    DROP_IP4_PROTO_UNKNOWN
    DROP_IP6_DISABLED                   # the network is IPv4 only
    DROP_IP6_MALFORMED                  # version or lengths do not fit the frame
    DROP_IP6_BAD_SOURCE                 # multicast, loopback, IPv4-mapped, or one of ours
    DROP_IP6_BAD_DESTINATION            # loopback, IPv4-mapped, unspecified, unused in the prefix,
                                        # or a group that we are not in
    DROP_IP6_SCOPE                      # RFC 4007 9: a link-local source is for the link alone
    DROP_IP6_HOP_LIMIT_EXPIRED          # answered with time exceeded
    DROP_IP6_BAD_EXTENSION              # an extension header: answered with parameter problem
                                        # where due
    DROP_IP6_PROTO_UNKNOWN
    DROP_IP6_NO_NEXT_HEADER             # RFC 8200 4.7: nothing follows
    DROP_FRAG_MALFORMED                 # its length or place cannot be
    DROP_FRAG_OVERLAP                   # RFC 5722: and with it the whole datagram
    DROP_FRAG_DUPLICATE
    DROP_FRAG_FULL                      # more pieces, or more memory, than may be
    DROP_NDP_MALFORMED
    DROP_NDP_NOT_FOR_US
    DROP_ICMP_MALFORMED
    DROP_ICMP_BAD_CHECKSUM
    DROP_ICMP_TYPE_UNKNOWN
    DROP_ICMP_NO_PING_SOCKET            # the host forbids them: net.ipv4.ping_group_range
    DROP_ICMP_HOST_REFUSED              # the host's ping socket would not take it
    DROP_ICMP_TOO_BIG                   # not to be cut, and over the path's MTU: answered by ICMP
    DROP_UDP_MALFORMED
    DROP_UDP_BAD_CHECKSUM
    DROP_UDP_FORBIDDEN                  # policy: the host's loopback or DNS is closed
    DROP_UDP_HOST_REFUSED               # the host's socket would not take it
    DROP_UDP_TOO_BIG                    # not to be cut, and over the path's MTU: answered by ICMP
    DROP_TCP_MALFORMED
    DROP_TCP_BAD_CHECKSUM
    DROP_TCP_NO_CONNECTION              # RFC 9293 3.10.7.1: answered with RST where due
    DROP_TCP_FORBIDDEN                  # policy, or nobody serves there
    DROP_TCP_HOST_REFUSED               # connect() failed at once; answered with RST or ICMP
    DROP_TCP_CONNECTING                 # the host side is still connecting: silence
    DROP_TCP_OUT_OF_WINDOW              # RFC 9293 3.10.7.4 first: answered with ACK
    DROP_TCP_PAWS                       # RFC 7323 5.3
    DROP_TCP_RST_OUT_OF_WINDOW
    DROP_TCP_RST_CHALLENGED             # RFC 5961 3.2
    DROP_TCP_SYN_CHALLENGED             # RFC 5961 4.2
    DROP_TCP_NO_ACK                     # RFC 9293 3.10.7.4 fifth: the ACK bit is off
    DROP_TCP_ACK_TOO_OLD                # RFC 5961 5.2
    DROP_TCP_ACK_TOO_NEW
    DROP_TCP_REASSEMBLY_FULL            # more holes, or more memory, than a connection may have
    DROP_FLOWS_FULL
    DROP_PUNT_TOO_LONG                  # for the control plane, and longer than it takes
    DROP_PUNT_FULL                      # as many wait for it as may
    DROP_PUNT_LIMITED                   # more of them in a while than it is made to answer
    DROP_COUNT


cpdef enum Counter:
    CTR_FRAMES_FROM_GUEST = 0
    CTR_BYTES_FROM_GUEST
    CTR_FRAMES_TO_GUEST
    CTR_BYTES_TO_GUEST
    CTR_LINK_SEND_FAILED                # the TAP did not take a frame
    CTR_HOST_STALE_EVENTS               # an event for a flow that is gone
    CTR_HOST_RX_DROPPED                 # something from the host that the guest cannot be given
    CTR_TCP_OPENED                      # connections established, either direction
    CTR_TCP_CONNECT_FAILED
    CTR_TCP_RESETS_SENT
    CTR_TCP_RETRANSMITS
    CTR_TCP_TIMEOUTS                    # retransmission time-outs
    CTR_TCP_CHALLENGE_ACKS
    CTR_TCP_CHALLENGE_LIMITED           # RFC 5961 7: not sent
    CTR_TCP_ABORTED                     # connections ended by our own time-outs or limits
    CTR_UDP_FLOWS
    CTR_UDP_EVICTED
    CTR_DNS_FAILOVERS                   # a query, or connection, put to one more name server
    CTR_HALF_OPEN_EVICTED
    CTR_TIME_WAIT_RECYCLED              # RFC 9293 3.6.1: a new SYN took the place
    CTR_ICMP_ERRORS_SENT
    CTR_ICMP_ERRORS_LIMITED
    CTR_FRAGS_REASSEMBLED               # datagrams
    CTR_FRAGS_TIMED_OUT                 # datagrams whose rest did not come
    CTR_FRAGS_EVICTED                   # datagrams that gave way to newer ones
    CTR_FRAGS_SENT                      # pieces of datagrams larger than the MTU
    CTR_FORWARDS_ACCEPTED
    CTR_FORWARDS_DEFERRED               # accept() failed for want of descriptors or memory: clients
                                        # wait
    CTR_NEIGH_UNKNOWN                   # frames not sent, as nobody has said where the guest is
    CTR_NEIGH_ASKED                     # ARP requests and neighbour solicitations about that
    CTR_COUNT


cdef struct Stats:
    uint64_t drops[96]
    uint64_t counters[64]


cdef inline void stats_count(Stats *stats, Counter which) noexcept nogil:
    stats.counters[<int>which] += 1

cdef inline void stats_add(Stats *stats, Counter which, uint64_t amount) noexcept nogil:
    stats.counters[<int>which] += amount

cdef dict stats_as_dict(const Stats *stats)
