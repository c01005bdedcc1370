"""Addresses and the back-off between attempts."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from skerry.errors import ConfigError
from skerry.fabric.address import Address, Addresses, Endpoint, backoff


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("localhost:1", "localhost", 1), ("10.0.0.7:65535", "10.0.0.7", 65535), ("[::1]:29400", "::1", 29400),
     (" host.example:80 ", "host.example", 80)],
)  # fmt: skip
def test_an_address_is_parsed(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)
    assert str(Address(host, port)) == text.strip()


NOT_ADDRESSES = ["", "localhost", "localhost:", ":80", "::1:80", "a:b", "h:0", "h:65536", "h:-1", "h:²", "[]:5"]


@pytest.mark.parametrize("text", NOT_ADDRESSES)
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        Address.parse(text)


def test_loopback_is_known() -> None:
    assert all(Address(host, 1).loopback for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"))
    assert not any(Address(host, 1).loopback for host in ("", "0.0.0.0", "::", "10.0.0.1", "example.org"))


def test_backoff_doubles_up_to_its_cap_with_jitter() -> None:
    waits = list(islice(backoff(random.Random(1)), 12))
    for i, wait in enumerate(waits):
        bound = min(0.1 * 2**i, 10.0)
        assert bound / 2 <= wait <= bound
    assert waits != list(islice(backoff(random.Random(2)), 12))


def test_a_list_of_addresses_is_parsed() -> None:
    assert Address.parse_list("a:1") == (Address("a", 1),)
    assert Address.parse_list("a:1, [::1]:2,b:3") == (Address("a", 1), Address("::1", 2), Address("b", 3))
    for text in ("a:1,", ",a:1", "a:1;b:2", "a:1,b"):
        with pytest.raises(ConfigError, match="host:port"):
            Address.parse_list(text)


def test_addresses_that_stand_for_a_whole_machine_are_known() -> None:
    assert all(Address(host, 1).everywhere for host in ("", "0.0.0.0", "::"))
    assert not any(Address(host, 1).everywhere for host in ("127.0.0.1", "::1", "example.org"))


def told(*texts: str, kind: str = "syncer") -> list[Endpoint]:
    return [Endpoint(kind=kind, host=address.host, port=address.port) for address in map(Address.parse, texts)]


def tries(addresses: Addresses, count: int) -> list[str]:
    return [str(addresses.next()) for _ in range(count)]


def test_addresses_are_tried_in_turn_from_the_last_good_one_on() -> None:
    addresses = Addresses("a:1,b:2,a:1,c:3")
    assert tries(addresses, 4) == ["a:1", "b:2", "c:3", "a:1"]
    addresses.good(Address("b", 2), [])
    assert tries(addresses, 4) == ["b:2", "c:3", "a:1", "b:2"]


def test_what_a_syncer_told_last_is_tried_beside_what_is_configured() -> None:
    addresses = Addresses("a:1,b:2")
    addresses.good(Address("a", 1), [*told("x:7", "b:2"), *told("p:9", kind="plane")])
    assert tries(addresses, 4) == ["a:1", "b:2", "x:7", "a:1"]
    addresses.good(Address("x", 7), told("y:8"))
    assert tries(addresses, 5) == ["x:7", "y:8", "a:1", "b:2", "x:7"]  # where it is linked stays, told or not
    addresses.good(Address("b", 2), [])
    assert tries(addresses, 3) == ["b:2", "a:1", "b:2"]
    assert addresses.configured == (Address("a", 1), Address("b", 2))
