"""Scripts of the fuzzer: a stack in a world of bytes (tests)."""

OPERATIONS: tuple[str, ...]
CALLS_BY_NAME: tuple[str, ...]
ERRNOS: tuple[int, ...]

def run(script: bytes) -> str | None: ...
def trace(script: bytes) -> dict[str, int]: ...
