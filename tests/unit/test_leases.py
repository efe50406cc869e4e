"""Who gets which address of a pool, and keeps it."""

from __future__ import annotations

from slirp.services.leases import DECLINED_S, OFFER_S, Leases

POOL = [bytes([10, 0, 2, n]) for n in (15, 16, 17)]
A, B, C, D = b"a", b"b", b"c", b"d"


def full() -> Leases:
    leases = Leases(POOL)
    for client, address in zip((A, B, C), POOL, strict=True):
        assert leases.bind(client, address, 100.0, 0.0)
    return leases


def test_first_come_first_served() -> None:
    leases = Leases(POOL)
    assert [leases.offer(client, None, 0.0) for client in (A, B, C)] == POOL


def test_offer_is_held_and_repeated() -> None:
    leases = Leases(POOL)
    assert leases.offer(A, None, 0.0) == POOL[0]
    assert leases.offer(A, POOL[2], 1.0) == POOL[0]
    assert not leases.is_bound(A, POOL[0], 1.0)
    assert not leases.bind(B, POOL[0], 100.0, OFFER_S)
    assert leases.bind(B, POOL[0], 100.0, OFFER_S + 1.0)


def test_wish_is_granted_where_possible() -> None:
    leases = Leases(POOL)
    assert leases.offer(A, POOL[1], 0.0) == POOL[1]
    assert leases.offer(B, POOL[1], 0.0) == POOL[0]
    assert leases.offer(C, b"elsewhere", 0.0) == POOL[2]


def test_full_pool_has_nothing_for_a_newcomer() -> None:
    leases = full()
    assert leases.offer(D, None, 99.0) is None
    assert leases.offer(D, POOL[1], 99.0) is None
    assert not leases.bind(D, POOL[1], 200.0, 99.0)
    assert leases.offer(B, None, 99.0) == POOL[1]


def test_offers_give_way_to_newcomers_oldest_first() -> None:
    """A guest that only asks must not keep others from an address."""
    leases = Leases(POOL)
    leases.offer(A, None, 0.0)
    leases.bind(B, POOL[1], 1000.0, 0.0)
    leases.offer(C, None, 1.0)
    assert leases.offer(D, None, 2.0) == POOL[0]
    assert leases.of(A) is None


def test_address_is_remembered_after_the_lease() -> None:
    leases = full()
    leases.release(B, POOL[1])
    assert leases.offer(B, POOL[0], 500.0) == POOL[1]


def test_newcomer_gets_what_ended_first() -> None:
    leases = Leases(POOL)
    for client, address, until_s in zip((A, B, C), POOL, (90.0, 50.0, 70.0), strict=True):
        leases.bind(client, address, until_s, 0.0)
    assert leases.offer(D, None, 100.0) == POOL[1]


def test_one_address_for_a_client() -> None:
    leases = Leases(POOL)
    leases.bind(A, POOL[0], 100.0, 0.0)
    leases.bind(A, POOL[2], 100.0, 0.0)
    assert leases.of(A) == POOL[2]
    assert leases.bind(B, POOL[0], 100.0, 0.0)


def test_only_the_owner_gives_back() -> None:
    leases = full()
    assert not leases.release(B, POOL[0])
    assert not leases.decline(B, POOL[0], 0.0)
    assert not leases.release(D, b"elsewhere")
    assert leases.is_bound(A, POOL[0], 0.0)
    assert leases.release(A, POOL[0])
    assert leases.offer(D, None, 0.0) == POOL[0]


def test_declined_address_is_left_alone_for_a_while() -> None:
    leases = full()
    assert leases.decline(A, POOL[0], 0.0)
    assert leases.of(A) is None
    assert leases.offer(D, POOL[0], 1.0) is None
    assert leases.offer(D, POOL[0], DECLINED_S) in POOL


def test_offer_does_not_shorten_a_lease() -> None:
    leases = full()
    leases.offer(A, None, 1.0)
    assert leases.is_bound(A, POOL[0], 99.0)
