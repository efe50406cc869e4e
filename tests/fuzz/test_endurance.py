"""A day of a busy guest in seconds: what the stack holds does not grow.

Connections open, carry text both ways and close from either side or not at all; datagrams, pings
and DNS come and go; clients come through forwards; the clock leaps as after a suspend. An hour of
it and a day of it need the same.
"""

from __future__ import annotations

import scripts
from scripts import ACK, FIN, RST, feed, handshake, passing, ping, script, segment, text, udp

from slirp.core import fuzz_script

ROUNDS_AN_HOUR = 360  # of ten seconds


def an_hour(hour: int) -> bytes:
    """3,600 seconds in which every way of ending happens."""
    rounds = []
    for number in range(ROUNDS_AN_HOUR):
        conn = number % 4
        ends = (
            segment(FIN | ACK, conn=conn) + feed(16, eof=True),
            feed(32, eof=True) + segment(FIN | ACK, conn=conn),
            segment(RST | ACK, conn=conn),
            scripts.op("die", 0, number % 20),
            b"",  # the guest forgets it
        )
        if (number - 4) % 5 == 4:  # it has forgotten: so it says when it is asked about its SYN
            rounds += [handshake(conn), segment(RST, conn=conn)]
        rounds += [handshake(conn), text(conn), feed(4096), text(conn), ends[number % 5]]
        rounds += [udp(ports=0x40 | number % 64), udp(scripts.DNS_ADDRESS, number % 64)]
        rounds += [ping(), scripts.arrive(3, 0, 40), passing(10.0)]
    return b"".join(rounds) + (passing(7200.0, leap=True) if hour % 8 == 7 else b"")


def test_a_day_needs_no_more_than_an_hour() -> None:
    """Flows, their table and buffers at their most; and nothing is left at the end."""
    first = fuzz_script.trace(script(an_hour(0)))
    day = b"".join(an_hour(hour) for hour in range(24))
    assert fuzz_script.run(script(day)) is None
    whole = fuzz_script.trace(script(day))
    assert whole["tcp_opened"] > 20 * first["tcp_opened"] > 2000
    assert whole["udp_flows"] > 1000
    for peak in ("peak_flows", "peak_slabs", "peak_blocks"):
        assert whole[peak] <= first[peak] + 2, peak


def test_time_that_leaps_loses_nothing() -> None:
    """The machine sleeps for a month with bytes on their way: they arrive when it wakes."""
    run = script(
        handshake(), segment(ACK, 0, 0x10), feed(4096), passing(30 * 86400.0, leap=True),
        segment(ACK), passing(1.0), passing(1.0), segment(FIN | ACK), feed(16, eof=True),
    )  # fmt: skip
    assert fuzz_script.run(run) is None
    assert fuzz_script.trace(run)["bytes_to_guest"] > 4096
