"""Links in virtual time: what their text means, how long a body takes, and what is said about text that cannot be read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.errors import ConfigError
from skerry.world.links import Link, Pipe

INFINITE = float("inf")


@pytest.mark.parametrize(
    ("text", "latency", "bandwidth"),
    [
        ("", 0.0, INFINITE),
        ("  ", 0.0, INFINITE),
        ("100ms", 0.1, INFINITE),
        ("100ms,1Gbit", 0.1, 1e9),
        (" 2 s , 10 Mbit/s ", 2.0, 1e7),
        ("50us,2.5kbit", 5e-05, 2500.0),
        ("1e-3s,4e2bit", 0.001, 400.0),
        ("0s,1TBIT/s", 0.0, 1e12),
    ],
)
def test_text(text, latency, bandwidth):
    link = Link.parse(text)
    assert (link.latency, link.bandwidth) == pytest.approx((latency, bandwidth), rel=1e-12)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("100", "cannot read '100'"),
        ("fast", "cannot read 'fast'"),
        ("100min", "cannot read '100min'"),
        ("-5ms", "cannot read '-5ms'"),
        ("100ms/s", "cannot read '100ms/s'"),
        ("1Gbit", "cannot read '1Gbit'"),
        (",1Gbit", "cannot read ''"),
        ("100ms,", "cannot read ''"),
        ("100ms,1GB", "cannot read '1GB'"),
        ("100ms,5ms", "cannot read '5ms'"),
        ("1.2.3ms", "'1.2.3' is no number"),
        ("1ms,1Gbit,2Gbit", "has 3 parts"),
    ],
)
def test_text_that_cannot_be_read(text, says):
    with pytest.raises(ConfigError) as error:
        Link.parse(text)
    assert f"link {text!r}" in error.value.message and says in error.value.message
    assert '"100ms,1Gbit"' in error.value.remedy and "us, ms, s; bit, kbit, Mbit, Gbit, Tbit" in error.value.remedy


@pytest.mark.parametrize(
    ("make", "says", "allowed"),
    [
        (lambda: Link(latency=-0.1), "link latency = -0.1", "0 or more seconds"),
        (lambda: Link(latency=float("nan")), "link latency = nan", "0 or more seconds"),
        (lambda: Link.parse("1e999s"), "link latency = inf", "0 or more seconds"),
        (lambda: Link(bandwidth=-1.0), "link bandwidth = -1.0", "more than 0 bit/s"),
        (lambda: Link(bandwidth=float("nan")), "link bandwidth = nan", "more than 0 bit/s"),
        (lambda: Link.parse("1ms,0bit"), "link bandwidth = 0.0", "more than 0 bit/s"),
    ],
)
def test_values_that_cannot_work(make, says, allowed):
    with pytest.raises(ConfigError) as error:
        make()
    assert says in error.value.message and allowed in error.value.remedy


def test_a_body_takes_its_bits_over_the_bandwidth():
    assert Link.parse("3s,1kbit").seconds(1000) == 8.0  # the latency is not part of it
    assert Link.parse("3s").seconds(10**12) == 0.0


def test_bytes_count_as_they_leave():
    pipe = Pipe(Link.parse("3s,8kbit"))  # 1000 bytes a second; the latency is not part of it
    assert pipe.send(10.0, 2000) == 12.0 and pipe.send(10.0, 1000) == 13.0
    assert [pipe.sent(at) for at in (10.0, 10.5, 12.5, 13.0, 99.0)] == [0, 500, 2500, 3000, 3000]
    pipe.cut(11.5)
    assert pipe.sent(11.5) == pipe.sent(99.0) == 1500
    assert pipe.send(20.0, 1000) == 21.0 and pipe.sent(20.5) == 2000
    at_once = Pipe(Link())
    assert at_once.send(5.0, 10**12) == 5.0 and at_once.sent(5.0) == 10**12


@given(st.floats(0, 1e6), st.floats(1e-3, 1e15))
def test_any_link_can_be_written(latency, bandwidth):
    assert Link.parse(f"{latency!r}s,{bandwidth!r}bit") == Link(latency=latency, bandwidth=bandwidth)
