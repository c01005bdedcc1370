"""The server's side: a listening socket whose connections become links once they have proved a token.

Rules: nothing that a stranger does harms others: the number of connections in their handshake (of all, and of one address),
their time and the length of their messages are bounded, and each that fails ends with a reason that is reported. A new one
takes the oldest one's place; of its own address first, so that nobody keeps others out. Only one that has hardly come keeps
its place: many honest learners may come at once, and must not push each other out for ever.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import secrets
import socket
import ssl
from collections.abc import Set
from dataclasses import dataclass, replace
from typing import Protocol

from skerry.errors import ConfigError, ProtocolError, UnreachableError
from skerry.fabric.address import Address, Endpoint
from skerry.fabric.connection import PATIENCE, STALL, Connection
from skerry.fabric.handshake import Arrival, Denied, let_in
from skerry.fabric.link import Handler, Link
from skerry.fabric.messages import Greeting
from skerry.fabric.tls import TlsConfig
from skerry.fabric.tokens import Keyring

MOST_STRANGERS = 128  # connections that have not proved the token yet
MOST_OF_ONE = 32  # of these from one address (IPv6: from one network of 64 bits)
MOMENT = 0.1  # seconds in which a handshake is over, if nothing is in its way
PAUSE = 1.0  # seconds, when no connection can be accepted (no file descriptors left)


class Server(Protocol):
    """Who a Listener reports to."""

    def opened(self, link: Link) -> Handler:
        """A peer has come in (link.role: learner or observer). Returns who handles its link."""

    def refused(self, peer: str, code: str, reason: str) -> None:
        """A connection ended in its handshake: for the log. `code` as in Refused, or: tls, silent, lost."""


@dataclass(slots=True)
class Stranger:
    """A connection in its handshake: where it comes from, since when, what sees to it."""

    home: str
    since: float
    task: asyncio.Task[None]
    evicted: bool = False


class Listener:
    """Made by Listener.start. `address`: where it listens, with the port that was chosen if 0 was asked for."""

    def __init__(self, sock: socket.socket, server: Server, *, keyring: Keyring, run: str, policy: str, needs: Set[str],
                 heartbeat: float, context: ssl.SSLContext | None, patience: float, stall: float) -> None:  # fmt: skip
        self.address = Address(*sock.getsockname()[:2])
        self._socket = sock
        self._server = server
        self._keyring = keyring
        self._needs = needs
        told = () if self.address.everywhere else (Endpoint(kind="syncer", host=self.address.host, port=self.address.port),)
        self._greeting = Greeting(mac=b"", run=run, policy=policy, heartbeat=heartbeat, addresses=told)
        self._context = context
        self._patience = patience
        self._stall = stall
        self._arriving: set[asyncio.Task[None]] = set()
        self._strangers: dict[Connection, Stranger] = {}  # in order of arrival
        self._halves: dict[str, tuple[str, asyncio.Future[Connection]]] = {}  # sessions that wait for their bulk
        # connection, with the name of the token that it must come with
        self._links: set[Link] = set()
        self._past = (0, 0)  # bytes in and out of ended links
        self.arrived = 0  # connections, let in or not
        self._accepting = asyncio.create_task(self._accept())

    @staticmethod
    async def start(server: Server, *, keyring: Keyring, run: str, host: str = "127.0.0.1", port: int = 0, policy: str = "",
                    needs: Set[str] = frozenset(), heartbeat: float = 1.0, tls: TlsConfig | None = None, insecure: bool = False,
                    patience: float = PATIENCE, stall: float = STALL) -> Listener:  # fmt: skip
        """Listen. `port` 0: a free one. `needs`: features that a learner must have. `insecure`: allow listening beyond loopback
        without TLS. `patience`: seconds for a handshake. `stall`: seconds without a byte in the middle of a frame or body
        after which a peer is given up.

        Raises ConfigError (exposed without TLS; TLS files) and UnreachableError (the address cannot be listened on).
        """
        where = Address(host, port)
        if not (tls or insecure or where.loopback):
            raise ConfigError(f"listening on {where} without TLS would expose the run to the network",
                              remedy="configure tls (cert and key), or say --insecure")  # fmt: skip
        context = tls.server_context() if tls else None
        return Listener(_bind(where), server, keyring=keyring, run=run, policy=policy, needs=needs, heartbeat=heartbeat,
                        context=context, patience=patience, stall=stall)  # fmt: skip

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes in and out of all links, ended ones included."""
        return (self._past[0] + sum(link.bytes_in for link in self._links),
                self._past[1] + sum(link.bytes_out for link in self._links))  # fmt: skip

    async def close(self, reason: str = "the syncer ends") -> None:
        """Stop listening and end every link, after what was sent on them has left (connection.LINGER at most)."""
        tasks = [self._accepting, *self._arriving]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._socket.close()
        links = list(self._links)
        for link in links:
            link.close(reason)
        await asyncio.gather(*(link.wait_closed() for link in links))

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(self._socket)
            except OSError as error:
                self._server.refused("", "lost", f"cannot accept a connection: {error.strerror}")
                await asyncio.sleep(PAUSE)
                continue
            self.arrived += 1
            peer, home = str(Address(*address[:2])), _home(address[0])
            if not self._make_room(home, loop.time()):
                sock.close()
                self._server.refused(peer, "silent", "too many connections have come from its address at once")
                continue
            connection = Connection(peer, stall=self._stall)
            task = asyncio.create_task(self._admit(sock, connection))
            self._strangers[connection] = Stranger(home, loop.time(), task)
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)
            await asyncio.sleep(0)  # accepting does not wait while more have come: those that are here have their turn

    def _make_room(self, home: str, now: float) -> bool:
        """Whether there is a place for one more from that address; the oldest that is not let in yet loses it."""
        everybody = [one for one in self._strangers.values() if not one.evicted]
        crowd = [one for one in everybody if one.home == home]
        if len(crowd) < MOST_OF_ONE:
            if len(everybody) < MOST_STRANGERS:
                return True
            crowd = crowd or everybody
        oldest = crowd[0]
        if now - oldest.since < MOMENT:
            return False
        oldest.evicted = True
        oldest.task.cancel()
        return True

    async def _admit(self, sock: socket.socket, connection: Connection) -> None:
        """See a new connection through its handshake, or end it with a reason."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._patience):
                await loop.connect_accepted_socket(lambda: connection, sock, ssl=self._context)
                await self._greet(connection)
        except (Denied, OSError, ProtocolError) as error:
            if isinstance(error, Denied):
                connection.send(error.refused)
            in_tls = self._context is not None and not connection.made
            code, reason = _explained(error, self._patience, in_tls)
            connection.end(reason, abort=not isinstance(error, Denied))
            self._server.refused(connection.peer, code, reason)
        except asyncio.CancelledError:
            evicted = connection in self._strangers and self._strangers[connection].evicted
            reason = "others wanted in, and it was the oldest in its handshake" if evicted else "the syncer ends"
            connection.end(reason, abort=True)
            if evicted:
                self._server.refused(connection.peer, "silent", reason)
            raise
        except BaseException:
            connection.end("a fault of the syncer", abort=True)
            raise
        finally:
            self._strangers.pop(connection, None)

    async def _greet(self, connection: Connection) -> None:
        arrival = await let_in(connection, self._keyring, self._greeting.run, self._needs)
        self._strangers.pop(connection, None)  # else those that wait for their bulk connection would keep it out
        greeting = replace(self._greeting, mac=arrival.mac)
        if arrival.role is None:
            half = self._half(arrival)
            connection.send(greeting)
            half.set_result(connection)
            return
        bulk = None
        if arrival.role == "learner":
            greeting = replace(greeting, session=secrets.token_hex(16))
            half = asyncio.get_running_loop().create_future()
            self._halves[greeting.session] = arrival.identity.name, half
            try:
                connection.send(greeting)
                bulk = await half
            finally:
                self._halves.pop(greeting.session, None)
        else:
            connection.send(greeting)
        link = Link(connection, bulk, side="server", role=arrival.role, identity=arrival.identity, features=arrival.features,
                    greeting=greeting)  # fmt: skip
        self._links.add(link)
        link.ended.add_done_callback(lambda _: self._forget(link))
        link.start(self._server.opened(link))

    def _half(self, arrival: Arrival) -> asyncio.Future[Connection]:
        """The session that this bulk connection completes. Raises Denied."""
        name, half = self._halves.get(arrival.hello.session, ("", None))
        if half is None or half.done() or name != arrival.identity.name:
            raise Denied("session", "no session of that name waits for its bulk connection")
        del self._halves[arrival.hello.session]
        return half

    def _forget(self, link: Link) -> None:
        self._links.discard(link)
        self._past = (self._past[0] + link.bytes_in, self._past[1] + link.bytes_out)


def _home(host: str) -> str:
    """What counts as one address: of IPv6 the network, for a host there has as many addresses as it likes."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.version == 4:
        return host
    return str(address.ipv4_mapped or ipaddress.ip_network((address.packed[:8] + bytes(8), 64)))


def _bind(where: Address) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            where.host or None, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]  # fmt: skip
        sock = socket.socket(family, kind, proto)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.bind(address)
            sock.listen(1024)
        except OSError:
            sock.close()
            raise
        return sock
    except OSError as error:
        remedy = "give an address of this machine"
        if error.errno == errno.EADDRINUSE:
            remedy = "choose another port (0 takes a free one), or end the process that listens there"
        elif error.errno == errno.EACCES:
            remedy = "choose a port of 1024 or more"
        raise UnreachableError(f"cannot listen on {where}: {(error.strerror or str(error)).lower()}", remedy=remedy) from error


def _explained(error: Denied | OSError | ProtocolError, patience: float, in_tls: bool) -> tuple[str, str]:
    """Code and reason for the log."""
    if isinstance(error, Denied):
        return error.refused.code, error.refused.reason
    if isinstance(error, ProtocolError):
        return "protocol", str(error)
    if isinstance(error, TimeoutError):
        return "silent", f"the handshake was not complete after {patience:g} s"
    if isinstance(error, ssl.SSLError):
        return "tls", f"the TLS handshake failed: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if in_tls:
        return "tls", "the client broke the TLS handshake off: does it accept this certificate?"
    return "lost", f"it ended in its handshake: {error.strerror or error}"
