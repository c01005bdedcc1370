"""Addresses and the back-off between attempts."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from skerry.errors import ConfigError
from skerry.fabric.address import Address, backoff


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
