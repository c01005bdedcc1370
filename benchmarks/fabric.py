"""The fabric between two processes beside a raw socket: 64 MiB bodies with and without TLS, and control while bulk flows.

Every figure comes from this process sending to one child that receives into memory it allocated before. A transfer ends
when the child's answer to it is here. Raw and fabric take turns; the ratio is the median over the pairs.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import trustme
from benchmarks._table import Row, at_least, report

from skerry.core.messages import Contribution, Count, Verdict
from skerry.fabric.client import connect
from skerry.fabric.link import Link
from skerry.fabric.listener import Listener
from skerry.fabric.messages import StatusRequest, StatusText
from skerry.fabric.tls import TlsConfig
from skerry.fabric.tokens import Keyring, Token

BODY = 64 << 20  # bytes
PAIRS = 61  # of one body each: short turns, so that what else the machine does meets both alike
ROUND_TRIPS = 400
CONTRIBUTION = Contribution(learner=0, generation=1, fragment=0, step=0, base=0, since=Count(), until=Count())
TOKEN = Token(b"a token for one benchmark only")


# ---------------------------------------------------------------- the child: it receives


class Receiver:
    """Listener and handler in one: answers each body and each status request."""

    def __init__(self) -> None:
        self.memory = memoryview(bytearray(BODY))

    def opened(self, link: Link) -> Receiver:
        return self

    def refused(self, peer: str, code: str, reason: str) -> None:
        print(f"{peer} refused: {reason}", file=sys.stderr, flush=True)

    def on_message(self, link: Link, message: Any) -> None:
        link.send(StatusText(text="{}"))

    def bulk_buffer(self, link: Link, message: Any, nbytes: int) -> memoryview:
        return self.memory[:nbytes]

    def on_bulk(self, link: Link, message: Contribution, buffer: memoryview) -> None:
        link.send(Verdict(learner=0, generation=1, fragment=0, step=message.step, verdict="merged"))

    def on_bulk_lost(self, link: Link, message: Any, buffer: memoryview) -> None: ...

    def on_closed(self, link: Link, reason: str) -> None: ...


async def receive_fabric(tls: TlsConfig | None) -> None:
    """Until stdin ends."""
    listener = await Listener.start(Receiver(), keyring=Keyring(TOKEN), run="bench", tls=tls)
    print(listener.address.port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await listener.close()


def receive_raw(tls: TlsConfig | None) -> None:
    """Bodies of one connection after the other, a byte in answer to each."""
    memory = memoryview(bytearray(BODY))
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        sock: socket.socket = server.accept()[0]
        if tls:
            sock = tls.server_context().wrap_socket(sock, server_side=True)
        with sock:
            filled = 0
            while count := sock.recv_into(memory[filled:]):
                filled += count
                if filled == BODY:
                    sock.sendall(b"k")
                    filled = 0


# ---------------------------------------------------------------- this process: it sends


class Sender:
    """A fabric link and what came back on it."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[Any] = asyncio.Queue()
        self.texts: asyncio.Queue[Any] = asyncio.Queue()

    def on_message(self, link: Link, message: Any) -> None:
        (self.texts if isinstance(message, StatusText) else self.answers).put_nowait(message)

    def bulk_buffer(self, link: Link, message: Any, nbytes: int) -> None:
        return None

    def on_bulk(self, link: Link, message: Any, buffer: memoryview) -> None: ...

    def on_bulk_lost(self, link: Link, message: Any, buffer: memoryview) -> None: ...

    def on_closed(self, link: Link, reason: str) -> None: ...


async def fabric_rate(link: Link, handler: Sender, body: memoryview) -> float:
    """Bytes a second."""
    begin = time.perf_counter()
    await link.send_bulk(CONTRIBUTION, body)
    await handler.answers.get()
    return BODY / (time.perf_counter() - begin)


def raw_rate(sock: socket.socket, body: memoryview) -> float:
    """Bytes a second."""
    begin = time.perf_counter()
    sock.sendall(body)
    assert sock.recv(1) == b"k"
    return BODY / (time.perf_counter() - begin)


async def keep_sending(link: Link, body: memoryview) -> None:
    """One body after the other, as fast as the link takes them."""
    while True:
        await link.send_bulk(CONTRIBUTION, body)


async def round_trips(link: Link, handler: Sender) -> list[float]:
    """Seconds of each control round trip, a few milliseconds apart."""
    taken = []
    for _ in range(ROUND_TRIPS):
        begin = time.perf_counter()
        link.send(StatusRequest())
        await handler.texts.get()
        taken.append(time.perf_counter() - begin)
        await asyncio.sleep(0.002)
    return sorted(taken)


async def measure(port: int, raw: socket.socket, tls: TlsConfig | None) -> list[Row]:
    handler = Sender()
    link = await connect(f"localhost:{port}" if tls else f"127.0.0.1:{port}", token=TOKEN, handler=handler, tls=tls)
    body = memoryview(bytearray(BODY))
    pairs = []
    for turn in range(PAIRS + 4):
        pair = raw_rate(raw, body), await fabric_rate(link, handler, body)
        if turn >= 4:  # the first ones warm both up
            pairs.append(pair)
    idle = await round_trips(link, handler)
    bulk = asyncio.create_task(keep_sending(link, body))
    busy = await round_trips(link, handler)
    bulk.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await bulk
    await link.wait_closed()
    return rows("TLS" if tls else "TCP", pairs, idle, busy)


def rows(kind: str, pairs: list[tuple[float, float]], idle: list[float], busy: list[float]) -> list[Row]:
    def at(times: list[float], share: float) -> float:
        return times[int(share * len(times))] * 1e3

    return [
        Row(f"{kind}: raw socket", statistics.median(raw for raw, _ in pairs) / 1e9, "GB/s"),
        Row(f"{kind}: fabric", statistics.median(fabric for _, fabric in pairs) / 1e9, "GB/s"),
        at_least(f"{kind}: fabric over raw", statistics.median(fabric / raw for raw, fabric in pairs), 0.7),
        Row(f"{kind}: control round trip, idle, p50", at(idle, 0.5), "ms"),
        Row(f"{kind}: control round trip, idle, p99", at(idle, 0.99), "ms"),
        Row(f"{kind}: control round trip, bulk flowing, p50", at(busy, 0.5), "ms"),
        Row(f"{kind}: control round trip, bulk flowing, p99", at(busy, 0.99), "ms"),
    ]


@contextlib.contextmanager
def child(kind: str, folder: str) -> Iterator[int]:
    """A receiving process; yields its port."""
    with subprocess.Popen([sys.executable, "-m", "benchmarks.fabric", kind, folder], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def run(tls: TlsConfig | None, folder: str) -> list[Row]:
    with child("fabric", folder) as fabric_port, child("raw", folder) as raw_port:
        raw = socket.create_connection(("127.0.0.1", raw_port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            raw = tls.client_context().wrap_socket(raw, server_hostname="localhost")
        with raw:
            return asyncio.run(measure(fabric_port, raw, tls))


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(f"{folder}/ca.pem")
        issued = authority.issue_cert("localhost")
        issued.private_key_pem.write_to_path(f"{folder}/key.pem")
        for i, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(f"{folder}/cert.pem", append=i > 0)
        return report("fabric", run(None, "") + run(TlsConfig(ca=f"{folder}/ca.pem"), folder))


if __name__ == "__main__":
    if len(sys.argv) == 1:
        raise SystemExit(main())
    _, kind, folder = sys.argv
    config = TlsConfig(cert=f"{folder}/cert.pem", key=f"{folder}/key.pem") if folder else None
    if kind == "raw":
        receive_raw(config)
    else:
        asyncio.run(receive_fabric(config))
