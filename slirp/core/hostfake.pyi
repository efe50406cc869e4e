"""A host made of Python, for tests."""

from typing import final

from slirp.core.hostops import Host

EVENT_READABLE: int
EVENT_WRITABLE: int
EVENT_ERROR: int
EVENT_ENDING: int
OPTION_DONT_FRAGMENT: int
OPTION_TOS: int

@final
class FakeHost(Host):
    """Every call of the stack to its host is the method of that name of `impl`."""

    failure: BaseException | None
    def __new__(cls, impl: object) -> FakeHost: ...
