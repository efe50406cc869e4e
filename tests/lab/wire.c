/* A wire with a delay between two network namespaces, for kernels without netem.
 *
 *   wire PID_A PID_B NAME DELAY_US
 *
 * makes an interface NAME in the network namespace of each of the two processes and carries every
 * frame from one to the other, unchanged and in order, DELAY_US later. Both are TAPs with
 * virtio-net headers and all offloads, so that what crosses are trains of up to 64 KiB, as over
 * veth: one read and one write each. One thread a direction. A queue holds what 25 Gbit/s fill in
 * the time of the delay; beyond it frames are lost, as in a router. Prints "ready" once the
 * interfaces are there, and ends with its standard input.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

enum { FRAME_MAX = 65536 + 256, BATCH = 32, TX_QUEUE_FRAMES = 20000 };
static const double QUEUE_BYTES_PER_US = 25e9 / 8 / 1e6;

struct slot {
    uint64_t due_ns;
    size_t length;
    uint8_t frame[];
};

/* A ring of slots; each lies in one piece. `wrap` is where the last lap ended. */
struct way {
    int from, to;
    uint64_t delay_ns;
    uint8_t *ring;
    size_t size, head, tail, wrap;
    int laps; /* head is a lap ahead of tail */
};

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void enter(const char *pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/ns/net", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET) != 0)
        die(path);
    close(fd);
}

/* All that this kernel takes, datagrams (USO, from Linux 6.2) first. */
static void set_offloads(int fd)
{
    unsigned tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    if (ioctl(fd, TUNSETOFFLOAD, tcp | TUN_F_USO4 | TUN_F_USO6) != 0
        && ioctl(fd, TUNSETOFFLOAD, tcp) != 0)
        die("TUNSETOFFLOAD");
}

static int open_tap(const char *pid, const char *name)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    enter(pid);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) != 0)
        die("TUNSETIFF");
    set_offloads(fd);
    int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    request.ifr_qlen = TX_QUEUE_FRAMES;
    if (control < 0 || ioctl(control, SIOCSIFTXQLEN, &request) != 0)
        die("SIOCSIFTXQLEN");
    close(control);
    return fd;
}

/* Where the next frame may be read to; NULL when the queue is full. */
static struct slot *room(struct way *w)
{
    size_t need = sizeof(struct slot) + FRAME_MAX;
    if (!w->laps && w->head == w->tail)
        w->head = w->tail = 0; /* empty: stay where the cache is warm */
    if (!w->laps && w->size - w->head < need) {
        w->wrap = w->head;
        w->head = 0;
        w->laps = 1;
    }
    if (w->laps && w->tail - w->head < need)
        return NULL;
    return (struct slot *)(w->ring + w->head);
}

static struct slot *oldest(struct way *w)
{
    if (w->laps && w->tail == w->wrap) {
        w->tail = 0;
        w->laps = 0;
    }
    return !w->laps && w->head == w->tail ? NULL : (struct slot *)(w->ring + w->tail);
}

static size_t slot_bytes(const struct slot *s)
{
    return (sizeof *s + s->length + 15) & ~(size_t)15;
}

/* True when there may be more to read. */
static int take_frames(struct way *w)
{
    static __thread uint8_t lost[FRAME_MAX];
    for (int i = 0; i < BATCH; i++) {
        struct slot *s = room(w);
        ssize_t n = read(w->from, s ? s->frame : lost, FRAME_MAX);
        if (n <= 0)
            return 0;
        if (s == NULL)
            continue;
        s->due_ns = now_ns() + w->delay_ns;
        s->length = n;
        w->head += slot_bytes(s);
    }
    return 1;
}

/* Hand on what is due; nanoseconds until the next, or -1. */
static int64_t give_frames(struct way *w)
{
    struct slot *s;
    for (int i = 0; (s = oldest(w)) != NULL; i++) {
        int64_t early = s->due_ns - now_ns();
        if (early > 0 || i == BATCH)
            return early > 0 ? early : 0;
        if (write(w->to, s->frame, s->length) < 0 && errno != EIO && errno != ENOBUFS)
            die("write"); /* EIO: the interface is down */
        w->tail += slot_bytes(s);
    }
    return -1;
}

static void *carry(void *argument)
{
    struct way *w = argument;
    prctl(PR_SET_TIMERSLACK, 1000ul);
    for (;;) {
        int more = take_frames(w);
        int64_t wait_ns = give_frames(w);
        if (more || wait_ns == 0)
            continue;
        struct timespec t = {wait_ns / 1000000000, wait_ns % 1000000000};
        struct pollfd p = {.fd = w->from, .events = POLLIN};
        ppoll(&p, 1, wait_ns < 0 ? NULL : &t, NULL);
    }
    return NULL;
}

static void start(struct way *w, int from, int to, uint64_t delay_us)
{
    pthread_t thread;
    *w = (struct way){.from = from, .to = to, .delay_ns = delay_us * 1000};
    w->size = (size_t)(delay_us * QUEUE_BYTES_PER_US) + (32 << 20);
    w->ring = mmap(NULL, w->size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (w->ring == MAP_FAILED || pthread_create(&thread, NULL, carry, w) != 0)
        die("start");
}

int main(int argc, char **argv)
{
    static struct way ways[2];
    char end;
    if (argc != 5)
        return fprintf(stderr, "usage: wire PID_A PID_B NAME DELAY_US\n"), 1;
    int a = open_tap(argv[1], argv[3]), b = open_tap(argv[2], argv[3]);
    start(&ways[0], a, b, strtoul(argv[4], NULL, 10));
    start(&ways[1], b, a, strtoul(argv[4], NULL, 10));
    puts("ready");
    fflush(stdout);
    return read(0, &end, 1) < 0;
}
