"""The client's side of a link: one attempt to reach a syncer. Raises errors that say what to do."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import Any

from skerry.core.messages import Readmit
from skerry.errors import ProtocolError, RefusedError, SkerryError, UnreachableError
from skerry.fabric.address import Address
from skerry.fabric.connection import PATIENCE, Connection
from skerry.fabric.handshake import Agreement, ask_in, hello
from skerry.fabric.link import Handler, Link
from skerry.fabric.messages import Answer, Hello, Role, StatusRequest, StatusText
from skerry.fabric.tls import TlsConfig, certificate_error
from skerry.fabric.tokens import Token


async def connect(address: Address | str, *, token: Token, handler: Handler, run: str = "", role: Role = "learner",
                  learner: int = -1, tls: TlsConfig | None = None, timeout: float = PATIENCE) -> Link:  # fmt: skip
    """Open a link with the syncer at `address`. `run`: the run that it must serve ("" = any). `role`: learner, observer or
    operator. `learner`: the id that it wants to join under (-1 = any).

    Nothing is passed to the handler before the caller's next await. Raises UnreachableError (try again later),
    RefusedError (its code says why), ConfigError (TLS files).
    """
    where = Address.parse(address) if isinstance(address, str) else address
    context = tls.client_context() if tls else None
    opened: list[Connection] = []
    try:
        async with asyncio.timeout(timeout):
            first = hello(role, token.identity, run=run, learner=learner)
            greeting, features = await _open(where, context, token, first, opened)
            if role == "learner":
                second = hello("bulk", token.identity, run=greeting.run, session=greeting.session)
                await _open(where, context, token, second, opened)
    except (OSError, ProtocolError) as error:
        _give_up(opened)
        mute = context is not None and len(opened) == 1 and opened[0].bytes_in == 0
        raise _explained(error, where, timeout, mute) from error
    except BaseException:
        _give_up(opened)
        raise
    link = Link(opened[0], opened[1] if role == "learner" else None, side="client", role=role,
                identity=token.identity, features=features, greeting=greeting)  # fmt: skip
    asyncio.get_running_loop().call_soon(link.start, handler)
    return link


async def ask_status(address: Address | str, *, token: Token, tls: TlsConfig | None = None, timeout: float = PATIENCE) -> str:
    """The syncer's status as JSON text, asked once. Raises what connect raises."""
    answer: StatusText = await _ask(address, StatusRequest(), StatusText, "observer", token, tls, timeout)
    return answer.text


async def ask_readmit(address: Address | str, learner: int, *, token: Token, tls: TlsConfig | None = None,
                      timeout: float = PATIENCE) -> Answer:  # fmt: skip
    """Let a quarantined learner in again; what became of that. Raises what connect raises."""
    answer: Answer = await _ask(address, Readmit(learner=learner), Answer, "operator", token, tls, timeout)
    return answer


async def _ask(address: Address | str, question: Any, kind: type[Any], role: Role, token: Token, tls: TlsConfig | None,
               timeout: float) -> Any:  # fmt: skip
    waiter = _Waiter(kind)
    link = await connect(address, token=token, handler=waiter, role=role, tls=tls, timeout=timeout)
    link.send(question)
    try:
        async with asyncio.timeout(timeout):
            return await waiter.came
    except (TimeoutError, ConnectionError) as error:
        raise UnreachableError(f"the syncer at {link.peer} gave no answer: {error or 'none came'}",
                               remedy="try again") from error  # fmt: skip
    finally:
        link.close()
        await link.wait_closed()


class _Waiter:
    """Handler of a link without bodies that waits for one message of that kind."""

    def __init__(self, kind: type[Any]) -> None:
        self.came: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._kind = kind

    def on_message(self, link: Link, message: Any) -> None:
        if isinstance(message, self._kind) and not self.came.done():
            self.came.set_result(message)

    def on_closed(self, link: Link, reason: str) -> None:
        if not self.came.done():
            self.came.set_exception(ConnectionError(reason))

    def bulk_buffer(self, link: Link, message: Any, nbytes: int) -> None:
        raise ProtocolError("a body on a link without any")

    def on_bulk(self, link: Link, message: Any, buffer: memoryview) -> None: ...

    def on_bulk_lost(self, link: Link, message: Any, buffer: memoryview) -> None: ...


async def _open(where: Address, context: ssl.SSLContext | None, token: Token, first: Hello,
                opened: list[Connection]) -> Agreement:  # fmt: skip
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: Connection(str(where)), where.host, where.port, ssl=context,
        server_hostname=where.host if context else None,
    )  # fmt: skip
    opened.append(connection)
    return await ask_in(connection, token, first)


def _give_up(opened: list[Connection]) -> None:
    for connection in opened:
        connection.end("given up", abort=True)


def _explained(error: OSError | ProtocolError, where: Address, timeout: float, mute: bool) -> SkerryError:
    """The user's view of what ended the attempt. `mute`: TLS was agreed on, and then the server said nothing."""
    if isinstance(error, ProtocolError):
        return RefusedError(f"{where} is no Skerry syncer, or its settings differ: {error.message}", code="protocol",
                            remedy=error.remedy or "check the address")  # fmt: skip
    if isinstance(error, ssl.SSLError):
        return certificate_error(error, f"the syncer at {where}")
    if isinstance(error, TimeoutError):
        return UnreachableError(f"the syncer at {where} did not answer for {timeout:g} s", remedy=_CHECK)
    if mute:  # asyncio's server closes without the alert that would name the reason
        return RefusedError(f"the syncer at {where} ended the connection once TLS was agreed on", code="certificate",
                            remedy="if it demands client certificates (tls.ca is set there), set tls.cert and tls.key "
                                   "to one of that authority; its log says more")  # fmt: skip
    reason = error.strerror or str(error)
    if error.errno is not None and not isinstance(error, socket.gaierror):
        reason = os.strerror(error.errno)  # asyncio's own text repeats the address
    return UnreachableError(f"cannot reach a syncer at {where}: {reason.lower()}", remedy=_CHECK)


_CHECK = "check that it runs, that the address is right, and that both sides use TLS or neither does"
