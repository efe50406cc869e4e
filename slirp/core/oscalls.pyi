CLONE_NEWNS: int
CLONE_NEWUTS: int
CLONE_NEWIPC: int
CLONE_NEWUSER: int
CLONE_NEWNET: int
MS_NOSUID: int
MS_NODEV: int
MS_NOEXEC: int
MS_BIND: int
MS_REC: int
MS_PRIVATE: int
MS_SLAVE: int
MNT_DETACH: int
IN_CLOSE_WRITE: int
IN_CREATE: int
IN_MOVED_TO: int
IN_MOVE_SELF: int
IN_DELETE_SELF: int
SIGHUP: int
SIGINT: int
SIGQUIT: int
SIGKILL: int
SIGUSR1: int
SIGUSR2: int
SIGPIPE: int
SIGTERM: int
SIGXFSZ: int
SIGWINCH: int

def setns(fd: int, kind: int) -> None: ...
def unshare(kinds: int) -> None: ...
def mount(source: str, target: str, fs_type: str, flags: int, data: str = "") -> None: ...
def umount(target: str, flags: int) -> None: ...
def set_parent_death_signal(signum: int) -> None: ...
def inotify_open() -> int: ...
def inotify_add(fd: int, path: str, mask: int) -> None: ...
def signal_fd(signals: list[int]) -> int: ...
def unblock_signals(signals: list[int]) -> None: ...
def is_ignored(signum: int) -> bool: ...
def reset_signal(signum: int) -> None: ...
