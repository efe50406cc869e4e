/* Request rates over TCP, with as little of the measuring program in them as possible.
 *
 *   probe serve PORT                        echo what comes; close a connection when its client does,
 *                                           or after one request when its first octet is 'c'
 *   probe rr    ADDRESS PORT SECONDS        one connection, one octet to and fro
 *   probe crr   ADDRESS PORT SECONDS N      connect, one octet to and fro, wait for the server's
 *                                           close, close; N of these at any time
 *
 * A client prints one line of JSON: {"count", "seconds", "p50_us", "p99_us", "errors"}. In crr the
 * server closes first, so that the client's port is free again at once and only the one in between
 * (the daemon under test) has TIME-WAIT to keep.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, MAX_SAMPLES = 4 << 20, MAX_FDS = 65536, CONNECT_TIMEOUT_US = 2000000 };

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

static struct sockaddr_in address_of(const char *text, const char *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    if (inet_pton(AF_INET, text, &a.sin_addr) != 1) {
        fprintf(stderr, "probe: not an address: %s\n", text);
        exit(1);
    }
    return a;
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
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in any = address_of("0.0.0.0", port);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&any, sizeof any) != 0 || listen(listener, 4096) != 0)
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

static void request_response(struct sockaddr_in to, double seconds)
{
    char octet = 'r';
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0)
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

static void open_one(int epoll_fd, const struct sockaddr_in *to)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0 || fd >= MAX_FDS)
        die("socket");
    opened_us[fd] = now_us();
    if (connect(fd, (const struct sockaddr *)to, sizeof *to) != 0 && errno != EINPROGRESS)
        die("connect");
    watch(epoll_fd, EPOLL_CTL_ADD, fd, EPOLLOUT);
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

static void connect_request_response(struct sockaddr_in to, double seconds, int concurrent)
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

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "serve"))
        serve(argv[2]);
    else if (argc == 5 && !strcmp(argv[1], "rr"))
        request_response(address_of(argv[2], argv[3]), atof(argv[4]));
    else if (argc == 6 && !strcmp(argv[1], "crr"))
        connect_request_response(address_of(argv[2], argv[3]), atof(argv[4]), atoi(argv[5]));
    else
        return fprintf(stderr, "usage: probe serve PORT | rr A P S | crr A P S N\n"), 1;
    return 0;
}
