# cython: language_level=3
"""A whole world around a stack, in C, for the fuzzer: what the stack meets is a script of bytes,
and all that it does is held against what it may do.

The script (fuzz_script) says what the guest sends and the host does, and when. A guest (fuzz_guest)
knows the numbers of its connections, so that a few bytes of script reach any state of TCP. The host
(fuzz_host) has sockets that keep what the kernel would keep, and can be told to fail. Every frame
of the stack's goes through fuzz_check. No clock, no randomness: a script always runs the same way.

Bytes of a stream are a function of connection and offset, so that whoever receives them knows what
they have to be. A frame that the script made byte by byte may be part of any connection: from then
on what the guest has sent is not known (`tainted`), and what goes to the host is not judged.

These modules are compiled without sanitizers and coverage (pyproject.toml): what they do is no news
for the fuzzer. The stack's own bytes they touch by memcpy only, which a sanitizer watches.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .ctx cimport Ctx
from .hostops cimport HostError
from .seq cimport seq_t
from .wire cimport Addr


cdef enum:
    SOCKETS_MAX = 48                # the host's descriptors: one more is EMFILE
    CONNS_MAX = 8                   # connections that the guest keeps the numbers of
    WAITING_MAX = 4                 # datagrams at a socket
    STREAM_MAX = 1 << 18            # bytes from the host at once

    SOCKET_TCP = 1
    SOCKET_DGRAM = 2
    SOCKET_LISTEN = 3               # a TCP forward's
    SOCKET_BOUND = 4                # a UDP forward's


cdef enum Call:                     # entries of HostOps and LinkOps that can be told to fail
    CALL_CONNECT = 0
    CALL_CONNECT_RESULT
    CALL_SEND
    CALL_RECV
    CALL_SHUTDOWN
    CALL_ACCEPT
    CALL_WATCH
    CALL_UDP_OPEN
    CALL_PING_OPEN
    CALL_DGRAM_SEND
    CALL_DGRAM_RECV
    CALL_LINK_SEND
    CALLS


cdef struct Waiting:                # a datagram, or a train of them, that dgram_recv will give
    uint8_t peer                    # fuzz_address
    uint16_t port
    uint32_t length
    uint16_t segment_bytes


cdef struct Socket:
    uint8_t kind                    # SOCKET_*; 0: free
    int fd
    uint64_t ref
    bint v6
    int conn                        # whose stream it carries; -1: nobody knows
    int connect_result              # 0, -EINPROGRESS or -errno
    bint shut
    bint eof
    bint failed                     # it met an error: bytes may be lost
    int error                       # errno of the next send or recv
    uint32_t waiting                # bytes that recv gives
    uint32_t given                  # and has given
    uint32_t room                   # bytes that send takes
    uint32_t taken                  # and has taken
    uint8_t clients                 # that accept gives
    uint8_t n_datagrams
    uint8_t n_errors
    Waiting datagrams[4]            # WAITING_MAX
    HostError errors[4]


cdef struct Conn:                   # a connection as its guest sees it
    bint used
    bint by_forward                 # the stack sent the first SYN
    bint open                       # our SYN is acknowledged: isn holds
    bint iss_known
    bint tainted
    bint ack_due
    bint ts_ok
    Addr guest
    Addr dest
    uint16_t guest_port
    uint16_t dest_port
    seq_t pending_isn               # of the SYN that was sent last
    bint syn_out
    int pending_fd                  # the socket that it made the stack open
    seq_t isn
    seq_t snd_nxt                   # the furthest that was sent
    seq_t una                       # what the stack has acknowledged
    seq_t iss
    seq_t rcv_nxt                   # in order
    uint32_t window                 # the stack's, scaled
    uint8_t our_shift
    uint8_t their_shift
    uint32_t ts_recent
    seq_t edge                      # the furthest right edge of a window that was offered
    int fd                          # the host's socket


cdef struct World:
    Ctx *c                          # a piece of memory of its own: a sanitizer sees its end
    const char *failure             # the first rule that was broken
    const uint8_t *script
    uint32_t left
    bint hold                       # do not serve yet: the batch goes on
    bint raw_sent                   # a frame went out that nobody keeps account of
    bint auto_ack
    uint8_t end                     # how it ends
    uint64_t digest                 # of the frames that the stack sent
    uint32_t peak_flows
    uint32_t peak_slabs
    uint32_t peak_blocks
    uint64_t frames_in
    uint64_t may_answer             # ICMP and ARP frames, and datagrams, that something has caused
    uint64_t may_deliver
    seq_t next_isn
    int next_fd
    int accepted_fd                 # of the accept() in hand
    int conn_in_hand                # whose segment is being taken by the stack
    Conn conns[8]                   # CONNS_MAX
    Socket sockets[48]              # SOCKETS_MAX
    int fault_errno[12]             # CALLS
    uint32_t fault_count[12]
    uint32_t frame_bytes            # of the last frame of the guest's
    uint8_t frame[12 + 14 + 65535 + 64]
    uint8_t out[12 + 14 + 65535 + 64]


cdef inline void broken(World *w, const char *rule) noexcept nogil:
    """A rule does not hold; the first is kept."""
    if w.failure == NULL:
        w.failure = rule


cdef inline uint8_t next8(World *w) noexcept nogil:
    """The next byte of the script; zero behind its end."""
    if w.left == 0:
        return 0
    w.left -= 1
    w.script += 1
    return w.script[-1]

cdef inline uint16_t next16(World *w) noexcept nogil:
    cdef uint16_t high = next8(w)
    return <uint16_t>(high << 8) | next8(w)

cdef inline uint32_t next32(World *w) noexcept nogil:
    cdef uint32_t high = next16(w)
    return (high << 16) | next16(w)


cdef inline uint8_t guest_byte(int conn, uint32_t offset) noexcept nogil:
    """What the guest's stream holds at an offset."""
    return <uint8_t>(offset * 7 + (offset >> 8) * 3 + <uint32_t>conn * 37)

cdef inline uint8_t host_byte(uint32_t offset) noexcept nogil:
    return <uint8_t>(offset * 5 + (offset >> 8) * 11 + 1)


cdef inline uint32_t sum16(const uint8_t *p, uint32_t n) noexcept nogil:
    """RFC 1071: the ones' complement sum, folded; an odd byte counts as the upper half."""
    cdef uint64_t total = 0
    cdef uint32_t i = 0
    while i + 1 < n:
        total += <uint32_t>p[i] << 8 | p[i + 1]
        i += 2
    if i < n:
        total += <uint32_t>p[i] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return <uint32_t>total
