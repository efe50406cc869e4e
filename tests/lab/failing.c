/* LD_PRELOAD: one in FAIL_EVERY allocations of the data plane finds no memory, once it has been set up.
 * Whose allocation it is tells the return address: modules of slirp/core, nobody else's. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SET_UP 3 /* allocations until the engine stands */

static unsigned every, count;

__attribute__((constructor)) static void begin(void) {
    const char *said = getenv("FAIL_EVERY");
    every = said ? (unsigned)atoi(said) : 0;
}

static int fails(void *caller) {
    Dl_info info;
    if (every == 0 || !dladdr(caller, &info) || info.dli_fname == NULL
        || strstr(info.dli_fname, "/slirp/core/") == NULL)
        return 0;
    count++;
    if (count <= SET_UP || count % every)
        return 0;
    errno = ENOMEM;
    return 1;
}

void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);

void *calloc(size_t n, size_t size) {
    return fails(__builtin_return_address(0)) ? NULL : __libc_calloc(n, size);
}

void *realloc(void *old, size_t size) {
    return fails(__builtin_return_address(0)) ? NULL : __libc_realloc(old, size);
}

void *mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset) {
    static void *(*real)(void *, size_t, int, int, int, off_t);
    if (real == NULL)
        real = (void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap");
    return fails(__builtin_return_address(0)) ? MAP_FAILED : real(at, n, prot, flags, fd, offset);
}
