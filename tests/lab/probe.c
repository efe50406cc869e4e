/* Request rates over TCP, with as little of the measuring program in them as possible.
 *
 *   probe serve PORT                        echo what comes; close a connection when its client does,
 *                                           or after one request when its first octet is 'c'
 *   probe rr    ADDRESS PORT SECONDS        one connection, one octet to and fro
 *   probe crr   ADDRESS PORT SECONDS N      connect, one octet to and fro, wait for the server's
 *                                           close, close; N of these at any time
 *   probe many  ADDRESS PORT SECONDS N      N connections; an octet to and fro on one after another,
 *                                           drawn by lot, DEPTH of these at any time
 *   probe hold  ADDRESS PORT N              N connections, until standard input ends
 *
 * A client prints one line of JSON: {"count", "seconds", "p50_us", "p99_us", "errors"}; many first,
 * and hold only, one with the count of what is open. In crr the server closes first, so that the
 * client's port is free again at once and only the one in between (the daemon under test) has
 * TIME-WAIT to keep.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, MAX_SAMPLES = 4 << 20, MAX_FDS = 65536, CONNECT_TIMEOUT_US = 2000000,
       OPENING = 64, DEPTH = 4, SPARE_FDS = 64 };

struct address {
    struct sockaddr_storage a;
    socklen_t length;
};

static double samples_us[MAX_SAMPLES];
static size_t sample_count;
static size_t error_count;

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* `text` NULL: every address, of both families. */
static struct address address_of(const char *text, const char *port)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
                             .ai_family = text ? AF_UNSPEC : AF_INET6,
                             .ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    struct address result = {.length = 0};
    if (getaddrinfo(text, port, &hints, &found) != 0) {
        fprintf(stderr, "probe: not an address: %s\n", text ? text : port);
        exit(1);
    }
    memcpy(&result.a, found->ai_addr, found->ai_addrlen);
    result.length = found->ai_addrlen;
    freeaddrinfo(found);
    return result;
}

static void watch(int epoll_fd, int op, int fd, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll_fd, op, fd, &e) != 0)
        die("epoll_ctl");
}

static void set_nodelay(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void take_sample(double us)
{
    if (sample_count < MAX_SAMPLES)
        samples_us[sample_count++] = us;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(double seconds)
{
    qsort(samples_us, sample_count, sizeof *samples_us, compare);
    double p50 = sample_count ? samples_us[sample_count / 2] : 0;
    double p99 = sample_count ? samples_us[sample_count * 99 / 100] : 0;
    printf("{\"count\": %zu, \"seconds\": %.3f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"errors\": %zu}\n",
           sample_count, seconds, p50, p99, error_count);
    fflush(stdout);
}

static void serve_ready(int fd)
{
    char buffer[65536];
    ssize_t n = recv(fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0 || send(fd, buffer, n, MSG_NOSIGNAL) != n || buffer[0] == 'c')
        close(fd);
}

static void serve(const char *port)
{
    int one = 1, zero = 0, listener = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct address any = address_of(NULL, port);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
    if (bind(listener, (struct sockaddr *)&any.a, any.length) != 0 || listen(listener, 4096) != 0)
        die("bind");
    int epoll_fd = epoll_create1(0);
    watch(epoll_fd, EPOLL_CTL_ADD, listener, EPOLLIN);
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                serve_ready(fd);
                continue;
            }
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                set_nodelay(fd);
                watch(epoll_fd, EPOLL_CTL_ADD, fd, EPOLLIN);
            }
        }
    }
}

static void request_response(struct address to, double seconds)
{
    char octet = 'r';
    int fd = socket(to.a.ss_family, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&to.a, to.length) != 0)
        die("connect");
    set_nodelay(fd);
    double start = now_us(), end = start + seconds * 1e6, before = start;
    while (before < end) {
        if (send(fd, &octet, 1, 0) != 1 || recv(fd, &octet, 1, 0) != 1)
            die("request");
        double after = now_us();
        take_sample(after - before);
        before = after;
    }
    report((now_us() - start) / 1e6);
}

static double opened_us[MAX_FDS];

static int open_one(int epoll_fd, const struct address *to)
{
    int fd = socket(to->a.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0 || fd >= MAX_FDS)
        die("socket");
    opened_us[fd] = now_us();
    if (connect(fd, (const struct sockaddr *)&to->a, to->length) != 0 && errno != EINPROGRESS)
        die("connect");
    watch(epoll_fd, EPOLL_CTL_ADD, fd, EPOLLOUT);
    return fd;
}

/* One step of a short connection; true when it is over, well or badly. */
static int crr_step(int epoll_fd, int fd, uint32_t events)
{
    char octet = 'c';
    if (events & EPOLLOUT) {
        if ((events & (EPOLLERR | EPOLLHUP)) || send(fd, &octet, 1, MSG_NOSIGNAL) != 1)
            return error_count++, 1;
        watch(epoll_fd, EPOLL_CTL_MOD, fd, EPOLLIN);
        return 0;
    }
    ssize_t n = recv(fd, &octet, 1, 0);
    if (n > 0 || (n < 0 && errno == EAGAIN))
        return 0; /* the answer; the server's close is still to come */
    if (n == 0)
        take_sample(now_us() - opened_us[fd]);
    else
        error_count++;
    return 1;
}

static void connect_request_response(struct address to, double seconds, int concurrent)
{
    int epoll_fd = epoll_create1(0);
    for (int i = 0; i < concurrent; i++)
        open_one(epoll_fd, &to);
    double start = now_us(), end = start + seconds * 1e6;
    while (now_us() < end) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(epoll_fd, events, EVENTS, CONNECT_TIMEOUT_US / 1000);
        for (int i = 0; i < n; i++)
            if (crr_step(epoll_fd, events[i].data.fd, events[i].events)) {
                close(events[i].data.fd);
                open_one(epoll_fd, &to);
            }
    }
    report((now_us() - start) / 1e6);
}

static int open_fds[MAX_FDS];
static char asked[MAX_FDS]; /* by descriptor */
static int most_connections;

/* Open `wanted` connections, OPENING at a time; how many came to be. */
static int open_many(int epoll_fd, const struct address *to, int wanted)
{
    int begun = 0, over = 0, opened = 0;
    wanted = wanted < most_connections ? wanted : most_connections;
    while (over < wanted) {
        while (begun < wanted && begun - over < OPENING)
            open_one(epoll_fd, to), begun++;
        struct epoll_event events[EVENTS];
        int n = epoll_wait(epoll_fd, events, EVENTS, CONNECT_TIMEOUT_US / 1000);
        if (n <= 0)
            break;
        for (int i = 0; i < n; i++, over++) {
            int fd = events[i].data.fd;
            watch(epoll_fd, EPOLL_CTL_MOD, fd, EPOLLIN);
            if (events[i].events & (EPOLLERR | EPOLLHUP))
                close(fd), error_count++;
            else
                open_fds[opened++] = fd;
        }
    }
    printf("{\"count\": %d, \"errors\": %d}\n", opened, wanted - opened);
    fflush(stdout);
    return opened;
}

static void hold(struct address to, int wanted)
{
    char end;
    open_many(epoll_create1(0), &to, wanted);
    while (read(0, &end, 1) > 0)
        ;
}

/* Ask a connection, drawn by lot among those that owe no answer. */
static void ask(int count)
{
    static uint32_t x = 2463534242u; /* Marsaglia's xorshift */
    char octet = 'r';
    int fd;
    do {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        fd = open_fds[x % count];
    } while (asked[fd]);
    asked[fd] = 1;
    opened_us[fd] = now_us();
    if (send(fd, &octet, 1, MSG_NOSIGNAL) != 1)
        die("request");
}

static void take_answer(int fd, int count)
{
    char octet;
    if (recv(fd, &octet, 1, 0) != 1)
        die("answer");
    asked[fd] = 0;
    take_sample(now_us() - opened_us[fd]);
    ask(count);
}

static void request_many(struct address to, double seconds, int wanted)
{
    int epoll_fd = epoll_create1(0), count = open_many(epoll_fd, &to, wanted);
    if (count <= DEPTH)
        exit(1);
    for (int i = 0; i < DEPTH; i++)
        ask(count);
    double start = now_us(), end = start + seconds * 1e6;
    while (now_us() < end) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(epoll_fd, events, EVENTS, CONNECT_TIMEOUT_US / 1000);
        for (int i = 0; i < n; i++)
            take_answer(events[i].data.fd, count);
        if (n <= 0)
            die("silence");
    }
    report((now_us() - start) / 1e6);
}

/* As many descriptors as this user may have. */
static void raise_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
        most_connections = (limit.rlim_max < MAX_FDS ? limit.rlim_max : MAX_FDS) - SPARE_FDS;
    }
}

int main(int argc, char **argv)
{
    raise_limit();
    if (argc == 3 && !strcmp(argv[1], "serve"))
        serve(argv[2]);
    else if (argc == 5 && !strcmp(argv[1], "rr"))
        request_response(address_of(argv[2], argv[3]), atof(argv[4]));
    else if (argc == 6 && !strcmp(argv[1], "crr"))
        connect_request_response(address_of(argv[2], argv[3]), atof(argv[4]), atoi(argv[5]));
    else if (argc == 6 && !strcmp(argv[1], "many"))
        request_many(address_of(argv[2], argv[3]), atof(argv[4]), atoi(argv[5]));
    else if (argc == 5 && !strcmp(argv[1], "hold"))
        hold(address_of(argv[2], argv[3]), atoi(argv[4]));
    else
        return fprintf(stderr, "usage: probe serve PORT | rr A P S | crr A P S N | many A P S N"
                               " | hold A P N\n"), 1;
    return 0;
}
