"""Every call of the host fails with everything its man page knows, wherever it is made.

The stack keeps the rules (fuzz_check), nothing is left over, and it serves again when the trouble
has passed.
"""

from __future__ import annotations

import errno

import pytest
import scripts
from scripts import fault, feed, handshake, passing, script, text

from slirp.core import fuzz_script

COUNTS = (1, 3, 16)
PASSING = (errno.ENOMEM, errno.ENOBUFS, errno.EINTR)  # our machine's trouble, not the connection's


@pytest.mark.parametrize("end", range(4), ids=("silent", "eofs", "errors", "at-once"))
@pytest.mark.parametrize("call", fuzz_script.CALLS_BY_NAME)
def test_no_fault_breaks_a_rule(call: str, end: int) -> None:
    """One fault, some, or many, before each step of a round trip through every protocol."""
    broken = {}
    steps = range(0, len(scripts.ROUND_TRIP_STEPS) + 1)
    for error in fuzz_script.ERRNOS:
        for count in COUNTS:
            for at in steps:
                before = scripts.ROUND_TRIP_STEPS[:at]
                after = scripts.ROUND_TRIP_STEPS[at:]
                run = script(*before, fault(call, error, count), *after, end=end)
                rule = fuzz_script.run(run)
                if rule is not None:
                    broken[errno.errorcode[error], count, at] = rule
    assert not broken


@pytest.mark.parametrize("call", fuzz_script.CALLS_BY_NAME)
def test_service_goes_on_after_a_fault(call: str) -> None:
    """Sixteen calls fail; ten minutes later a connection opens and datagrams pass as ever."""
    for error in fuzz_script.ERRNOS:
        trouble = (fault(call, error, 16), scripts.ROUND_TRIP, scripts.NO_FAULT, passing(600.0))
        before = fuzz_script.trace(script(*trouble))
        after = fuzz_script.trace(script(*trouble, handshake(0x11), text(0x11), scripts.udp()))
        for name in ("tcp_opened", "udp_flows"):
            assert after[name] > before[name], f"{name}: {call} {errno.errorcode[error]}"


@pytest.mark.parametrize("error", PASSING)
def test_passing_trouble_costs_no_connection(error: int) -> None:
    """Without memory at the host's socket for a while, both directions go on afterwards."""
    for call in ("tcp_send", "tcp_recv"):
        run = script(handshake(), fault(call, error, 5), text(), feed(4096), *[passing(0.2)] * 5)
        assert fuzz_script.run(run) is None
        counters = fuzz_script.trace(run)
        assert counters["tcp_resets_sent"] <= 1  # the one at the end, when nobody is there
        assert counters["bytes_to_guest"] > 4096 or call == "tcp_send"
