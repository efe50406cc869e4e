/* Datagrams as QUIC sends them: in trains that the kernel cuts (UDP_SEGMENT), received the same way
 * (UDP_GRO), acknowledged, with a window that halves at a loss.
 *
 *   trains serve PORT                      take what clients send, or send what they ask for
 *   trains up    ADDRESS PORT SECONDS      send
 *   trains down  ADDRESS PORT SECONDS      ask for trains
 *
 * A client prints one line of JSON: {"bytes", "seconds", "lost"}; bytes are those that arrived, lost
 * is a share of those sent.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#define UDP_GRO 104
#endif

enum { DATAGRAM = 1400, PER_TRAIN = 44, TRAIN = DATAGRAM * PER_TRAIN, ACK_EVERY = TRAIN / 2,
       WINDOW_FIRST = 4 * TRAIN, WINDOW_MAX = 64 * TRAIN, SILENCE_MS = 20, BUFFER = 4 << 20 };
enum kind { DATA = 1, ACK, DOWN };

struct message {
    uint32_t kind, milliseconds;
    uint64_t offset;   /* DATA: of its first byte; ACK: behind the last byte seen */
    uint64_t received; /* ACK: bytes in all */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* Bound to PORT on every address, or connected when there is an address. */
static int open_socket(const char *address, const char *port)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
                             .ai_family = address ? AF_UNSPEC : AF_INET6,
                             .ai_socktype = SOCK_DGRAM};
    struct addrinfo *found;
    int one = 1, zero = 0, size = BUFFER;
    if (getaddrinfo(address, port, &hints, &found) != 0) {
        fprintf(stderr, "trains: not an address\n");
        exit(1);
    }
    int fd = socket(found->ai_family, SOCK_DGRAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof one);
    if (!address)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
    if ((address ? connect : bind)(fd, found->ai_addr, found->ai_addrlen) != 0)
        die("socket");
    freeaddrinfo(found);
    return fd;
}

static void send_train(int fd, uint64_t offset)
{
    static uint8_t train[TRAIN];
    char control[CMSG_SPACE(sizeof(uint16_t))] = {0};
    struct iovec iov = {train, TRAIN};
    struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
                            .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = IPPROTO_UDP;
    c->cmsg_type = UDP_SEGMENT;
    c->cmsg_len = CMSG_LEN(sizeof(uint16_t));
    *(uint16_t *)CMSG_DATA(c) = DATAGRAM;
    for (int i = 0; i < PER_TRAIN; i++) {
        struct message m = {.kind = DATA, .offset = offset + i * DATAGRAM};
        memcpy(train + i * DATAGRAM, &m, sizeof m);
    }
    if (sendmsg(fd, &header, 0) < 0 && errno != ENOBUFS && errno != EAGAIN && errno != ECONNREFUSED)
        die("sendmsg");
}

struct sender {
    uint64_t sent, seen, received, cut_at;
    double window;
};

/* What an ACK tells: room for more; at a loss, a smaller window, once for each round trip. */
static void take_ack(struct sender *s, const struct message *m)
{
    if (m->kind != ACK || m->offset <= s->seen)
        return;
    uint64_t lost = s->seen - s->received;
    s->window += TRAIN * (double)(m->offset - s->seen) / s->window;
    if (s->window > WINDOW_MAX)
        s->window = WINDOW_MAX;
    s->seen = m->offset;
    s->received = m->received;
    if (s->seen - s->received > lost && s->seen > s->cut_at) {
        s->window = s->window / 2 > TRAIN ? s->window / 2 : TRAIN;
        s->cut_at = s->sent;
    }
}

/* Send for a while to the peer that fd is connected to. */
static struct sender send_for(int fd, double seconds)
{
    struct sender s = {.window = WINDOW_FIRST};
    uint64_t forgiven = 0; /* what was lost with nothing behind it to tell */
    for (double end = now() + seconds; now() < end;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        struct message m;
        int open = s.sent - s.seen - forgiven + TRAIN <= s.window;
        if (open) {
            send_train(fd, s.sent);
            s.sent += TRAIN;
        }
        if (poll(&p, 1, open ? 0 : SILENCE_MS) == 0) {
            if (!open) {
                forgiven = s.sent - s.seen;
                s.window = TRAIN;
            }
            continue;
        }
        for (ssize_t n; (n = recv(fd, &m, sizeof m, MSG_DONTWAIT | MSG_TRUNC)) >= (ssize_t)sizeof m;) {
            take_ack(&s, &m);
            forgiven = 0;
        }
    }
    return s;
}

struct receiver {
    uint64_t seen, received, acked;
};

/* One recvmsg(): a train, or a datagram; its first message is left in *m. */
static ssize_t receive(int fd, struct receiver *r, struct message *m, struct sockaddr_in6 *from)
{
    static uint8_t buffer[65536];
    char control[CMSG_SPACE(sizeof(int))];
    struct iovec iov = {buffer, sizeof buffer};
    struct msghdr header = {.msg_name = from, .msg_namelen = from ? sizeof *from : 0,
                            .msg_iov = &iov, .msg_iovlen = 1,
                            .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(fd, &header, 0);
    size_t segment = n;
    if (n < (ssize_t)sizeof *m)
        return -1;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c))
        if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO)
            segment = *(int *)CMSG_DATA(c);
    memcpy(m, buffer, sizeof *m);
    if (m->kind != DATA)
        return n;
    struct message last;
    size_t at = (n - 1) / segment * segment;
    memcpy(&last, buffer + at, sizeof last);
    if (m->offset == 0)
        *r = (struct receiver){0};
    if (last.offset + (n - at) > r->seen)
        r->seen = last.offset + (n - at);
    r->received += n;
    return n;
}

static void acknowledge(int fd, struct receiver *r, const struct sockaddr_in6 *to)
{
    struct message ack = {.kind = ACK, .offset = r->seen, .received = r->received};
    if (r->received - r->acked < ACK_EVERY)
        return;
    r->acked = r->received;
    sendto(fd, &ack, sizeof ack, 0, (const struct sockaddr *)to, to ? sizeof *to : 0);
}

static void serve(const char *port)
{
    struct receiver r = {0};
    int fd = open_socket(NULL, port);
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct message m;
        struct sockaddr_in6 from;
        if (receive(fd, &r, &m, &from) < 0)
            continue;
        if (m.kind == DATA) {
            acknowledge(fd, &r, &from);
        } else if (m.kind == DOWN) {
            if (connect(fd, (struct sockaddr *)&from, sizeof from) != 0)
                die("connect");
            send_for(fd, m.milliseconds / 1e3);
            exit(0);
        }
    }
}

static void report(uint64_t bytes, double seconds, uint64_t seen)
{
    printf("{\"bytes\": %llu, \"seconds\": %.3f, \"lost\": %.4f}\n", (unsigned long long)bytes,
           seconds, seen > bytes ? (double)(seen - bytes) / seen : 0.0);
}

static void receive_for(int fd, double seconds)
{
    struct message request = {.kind = DOWN, .milliseconds = seconds * 1e3}, m;
    struct receiver r = {0};
    struct timeval patience = {0, 200000};
    double start = 0;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    for (double end = now() + seconds; now() < end;) {
        if (r.received == 0)
            send(fd, &request, sizeof request, 0);
        if (receive(fd, &r, &m, NULL) > 0 && start == 0)
            start = now(), end = start + seconds;
        acknowledge(fd, &r, NULL);
    }
    report(r.received, now() - start, r.seen);
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "serve")) {
        serve(argv[2]);
    } else if (argc == 5 && !strcmp(argv[1], "up")) {
        double start = now();
        struct sender s = send_for(open_socket(argv[2], argv[3]), atof(argv[4]));
        report(s.received, now() - start, s.seen);
    } else if (argc == 5 && !strcmp(argv[1], "down")) {
        receive_for(open_socket(argv[2], argv[3]), atof(argv[4]));
    } else {
        return fprintf(stderr, "usage: trains serve PORT | up A P S | down A P S\n"), 1;
    }
    return 0;
}
