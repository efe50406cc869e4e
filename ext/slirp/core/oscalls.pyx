# cython: language_level=3
"""System calls that the os module of Python 3.11 lacks: namespaces, mounts, signals and changes of
files by descriptor.

Each is the call of section 2 of the manual with Python's conventions: OSError instead of -1. None
of them is called while traffic flows. The signals' numbers are here because the signal module takes
5 ms to import.
"""
import os

from libc.errno cimport errno


cdef extern from "<sched.h>" nogil:
    int c_CLONE_NEWNS "CLONE_NEWNS"
    int c_CLONE_NEWUTS "CLONE_NEWUTS"
    int c_CLONE_NEWIPC "CLONE_NEWIPC"
    int c_CLONE_NEWUSER "CLONE_NEWUSER"
    int c_CLONE_NEWNET "CLONE_NEWNET"
    int c_setns "setns"(int fd, int kind)
    int c_unshare "unshare"(int flags)

cdef extern from "<sys/mount.h>" nogil:
    unsigned long c_MS_NOSUID "MS_NOSUID"
    unsigned long c_MS_NODEV "MS_NODEV"
    unsigned long c_MS_NOEXEC "MS_NOEXEC"
    unsigned long c_MS_BIND "MS_BIND"
    unsigned long c_MS_REC "MS_REC"
    unsigned long c_MS_PRIVATE "MS_PRIVATE"
    unsigned long c_MS_SLAVE "MS_SLAVE"
    int c_MNT_DETACH "MNT_DETACH"
    int c_mount "mount"(const char *source, const char *target, const char *fs_type,
                        unsigned long flags, const void *data)
    int c_umount2 "umount2"(const char *target, int flags)

cdef extern from "<sys/inotify.h>" nogil:
    int c_IN_CLOEXEC "IN_CLOEXEC"
    int c_IN_NONBLOCK "IN_NONBLOCK"
    unsigned int c_IN_CLOSE_WRITE "IN_CLOSE_WRITE"
    unsigned int c_IN_CREATE "IN_CREATE"
    unsigned int c_IN_MOVED_TO "IN_MOVED_TO"
    unsigned int c_IN_MOVE_SELF "IN_MOVE_SELF"
    unsigned int c_IN_DELETE_SELF "IN_DELETE_SELF"
    int c_inotify_init1 "inotify_init1"(int flags)
    int c_inotify_add_watch "inotify_add_watch"(int fd, const char *path, unsigned int mask)

cdef extern from "<sys/prctl.h>" nogil:
    int PR_SET_PDEATHSIG
    int c_prctl "prctl"(int option, ...)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    ctypedef void (*sighandler_t)(int)
    struct c_sigaction "sigaction":
        sighandler_t sa_handler
    int c_SIGHUP "SIGHUP"
    int c_SIGINT "SIGINT"
    int c_SIGQUIT "SIGQUIT"
    int c_SIGKILL "SIGKILL"
    int c_SIGUSR1 "SIGUSR1"
    int c_SIGUSR2 "SIGUSR2"
    int c_SIGPIPE "SIGPIPE"
    int c_SIGTERM "SIGTERM"
    int c_SIGXFSZ "SIGXFSZ"
    int c_SIGWINCH "SIGWINCH"
    int SIG_BLOCK
    int SIG_UNBLOCK
    sighandler_t SIG_DFL
    sighandler_t SIG_IGN
    int sigemptyset(sigset_t *signals)
    int sigaddset(sigset_t *signals, int signum)
    int pthread_sigmask(int how, const sigset_t *signals, sigset_t *old)
    int sigaction_ "sigaction"(int signum, const c_sigaction *action, c_sigaction *old)
    sighandler_t c_signal "signal"(int signum, sighandler_t handler)

cdef extern from "<sys/signalfd.h>" nogil:
    int SFD_NONBLOCK
    int SFD_CLOEXEC
    int c_signalfd "signalfd"(int fd, const sigset_t *signals, int flags)


CLONE_NEWNS = c_CLONE_NEWNS
CLONE_NEWUTS = c_CLONE_NEWUTS
CLONE_NEWIPC = c_CLONE_NEWIPC
CLONE_NEWUSER = c_CLONE_NEWUSER
CLONE_NEWNET = c_CLONE_NEWNET
MS_NOSUID = c_MS_NOSUID
MS_NODEV = c_MS_NODEV
MS_NOEXEC = c_MS_NOEXEC
MS_BIND = c_MS_BIND
MS_REC = c_MS_REC
MS_PRIVATE = c_MS_PRIVATE
MS_SLAVE = c_MS_SLAVE
MNT_DETACH = c_MNT_DETACH
IN_CLOSE_WRITE = c_IN_CLOSE_WRITE
IN_CREATE = c_IN_CREATE
IN_MOVED_TO = c_IN_MOVED_TO
IN_MOVE_SELF = c_IN_MOVE_SELF
IN_DELETE_SELF = c_IN_DELETE_SELF
SIGHUP = c_SIGHUP
SIGINT = c_SIGINT
SIGQUIT = c_SIGQUIT
SIGKILL = c_SIGKILL
SIGUSR1 = c_SIGUSR1
SIGUSR2 = c_SIGUSR2
SIGPIPE = c_SIGPIPE
SIGTERM = c_SIGTERM
SIGXFSZ = c_SIGXFSZ
SIGWINCH = c_SIGWINCH


def setns(int fd, int kind):
    """Join the namespace behind `fd`, which must be of CLONE_NEW* `kind`."""
    if c_setns(fd, kind) < 0:
        _raise()


def unshare(int kinds):
    """Leave for new namespaces of the CLONE_NEW* `kinds`."""
    if c_unshare(kinds) < 0:
        _raise()


def mount(str source, str target, str fs_type, unsigned long flags, str data=""):
    """mount(2)."""
    cdef bytes raw_source = os.fsencode(source)
    cdef bytes raw_target = os.fsencode(target)
    cdef bytes raw_type = os.fsencode(fs_type)
    cdef bytes raw_data = os.fsencode(data)
    if c_mount(raw_source, raw_target, raw_type, flags, <const char *>raw_data) < 0:
        _raise(target)


def umount(str target, int flags):
    """umount2(2)."""
    cdef bytes raw_target = os.fsencode(target)
    if c_umount2(raw_target, flags) < 0:
        _raise(target)


def set_parent_death_signal(int signum):
    """Be sent `signum` when the thread that forked us ends; 0 for never."""
    if c_prctl(PR_SET_PDEATHSIG, <unsigned long>signum, 0, 0, 0) < 0:
        _raise()


def signal_fd(list signals):
    """Block `signals` in this thread; returns a non-blocking descriptor that delivers them."""
    cdef sigset_t selected = _sigset(signals)
    if pthread_sigmask(SIG_BLOCK, &selected, NULL) != 0:
        raise ValueError(signals)
    cdef int fd = c_signalfd(-1, &selected, SFD_NONBLOCK | SFD_CLOEXEC)
    if fd < 0:
        _raise()
    return fd


def unblock_signals(list signals):
    """Let `signals` through to this thread again."""
    cdef sigset_t selected = _sigset(signals)
    if pthread_sigmask(SIG_UNBLOCK, &selected, NULL) != 0:
        raise ValueError(signals)


def is_ignored(int signum):
    """Whether `signum` is ignored, as a caller may have arranged (nohup, a background job)."""
    cdef c_sigaction current
    if sigaction_(signum, NULL, &current) < 0:
        _raise()
    return current.sa_handler == SIG_IGN


def reset_signal(int signum):
    """Give `signum` its default action, also behind Python's back."""
    c_signal(signum, SIG_DFL)


def inotify_open():
    """A descriptor for inotify_add, non-blocking. Raises OSError, also at the user's limit."""
    cdef int fd = c_inotify_init1(c_IN_CLOEXEC | c_IN_NONBLOCK)
    if fd < 0:
        _raise()
    return fd


def inotify_add(int fd, str path, unsigned int mask):
    """Have IN_* of `mask` reported of a file, or of what happens in a directory."""
    if c_inotify_add_watch(fd, os.fsencode(path), mask) < 0:
        _raise(path)


cdef sigset_t _sigset(list signals) except *:
    cdef sigset_t selected
    cdef int signum
    sigemptyset(&selected)
    for signum in signals:
        if sigaddset(&selected, signum) < 0:
            raise ValueError(signum)
    return selected


cdef _raise(path=None):
    cdef int code = errno
    raise OSError(code, os.strerror(code), path)
