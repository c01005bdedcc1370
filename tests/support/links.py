"""A relay of the launcher's in a process of its own, before a server that says everything back."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from skerry.launch.relay import reserve

PATIENCE = 60.0


@contextmanager
def relayed(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], socket.socket], int]]:
    """Gives the relay, what makes a connection through it (used both ways once, so that it is there), and its port."""
    with ExitStack() as stack:
        echo = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        threading.Thread(target=_serve, args=(echo,), daemon=True).start()
        (folder / "address").write_text("{}:{}\n".format(*echo.getsockname()))
        kept = stack.enter_context(reserve())
        port = kept.getsockname()[1]
        relay = start_relay(port, folder / "address")
        stack.callback(relay.wait)
        stack.callback(relay.kill)

        def connect() -> socket.socket:
            made = stack.enter_context(_connect(port))
            made.sendall(b"?")
            assert heard(made, 1) == b"?"
            return made

        yield relay, connect, port
        echo.shutdown(socket.SHUT_RDWR)


def start_relay(port: int, address: Path) -> subprocess.Popen[bytes]:
    """The process."""
    return subprocess.Popen([sys.executable, "-m", "skerry.launch.relay", str(port), str(address)])


def heard(sock: socket.socket, nbytes: int) -> bytes:
    """So many bytes."""
    sock.settimeout(PATIENCE)
    data = b""
    while len(data) < nbytes:
        more = sock.recv(1 << 20)
        assert more, "the connection has ended"
        data += more
    return data


def silent(*socks: socket.socket) -> bool:
    """Whether none has anything to say, nor an end, for a while."""
    return not select.select(socks, [], [], 0.3)[0]


def over(sock: socket.socket) -> bool:
    """Whether the connection ends."""
    sock.settimeout(PATIENCE)
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


def _connect(port: int) -> socket.socket:
    """As soon as the relay listens."""
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            select.select([], [], [], 0.02)


def _serve(echo: socket.socket) -> None:
    while True:
        try:
            made, _ = echo.accept()
        except OSError:
            return
        threading.Thread(target=_echo, args=(made,), daemon=True).start()


def _echo(made: socket.socket) -> None:
    with made:
        try:
            while data := made.recv(1 << 20):
                made.sendall(data)
        except OSError:
            pass
