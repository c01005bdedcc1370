"""TLS with real certificates: what is accepted, what is refused and in which words."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme

from skerry.core.messages import Contribution, Count, Report
from skerry.errors import ConfigError, RefusedError, SkerryError, UnreachableError
from skerry.fabric.client import connect
from skerry.fabric.tls import TlsConfig


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.file = str(folder / f"ca-{id(self)}.pem")
        self.authority.cert_pem.write_to_path(self.file)
        self.issued = 0

    def issue(self, name: str = "localhost", **validity: Any) -> dict[str, str]:
        """cert= and key= of a TlsConfig."""
        leaf = self.authority.issue_cert(name, **validity)
        self.issued += 1
        cert, key = (f"{self.file}-{self.issued}-{what}.pem" for what in ("cert", "key"))
        leaf.private_key_pem.write_to_path(key)
        Path(cert).write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        return {"cert": cert, "key": key}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def attempt(fabric: SimpleNamespace, listener: Any, tls: TlsConfig | None, host: str = "localhost") -> str:
    """One attempt that must fail: the error in words, with its class and code."""
    with pytest.raises(SkerryError) as caught:
        await connect(f"{host}:{listener.address.port}", token=fabric.TOKEN, handler=fabric.Recorder(), tls=tls)
    return f"{type(caught.value).__name__} {getattr(caught.value, 'code', '')}: {caught.value}"


def test_a_link_over_tls_does_all_that_a_plain_one_does(fabric: SimpleNamespace, authority: Authority) -> None:
    body = bytes(range(256)) * 20_000  # 5 MB

    async def run() -> None:
        client, server = TlsConfig(ca=authority.file), TlsConfig(**authority.issue())
        async with fabric.listening(tls=server, host="0.0.0.0") as (listener, host):
            handler = fabric.Recorder()
            host.handler = lambda: fabric.Recorder(memoryview(bytearray(len(body))))
            link = await connect(f"localhost:{listener.address.port}", token=fabric.TOKEN, handler=handler, tls=client)
            await host.until("opened")
            contribution = Contribution(learner=0, generation=1, fragment=0, step=0, base=0, since=Count(), until=Count())
            host.handlers[0].memory, memory = None, host.handlers[0].memory
            sending = asyncio.create_task(link.send_bulk(contribution, body))
            await host.handlers[0].until("announced")
            link.send(Report(learner=0, generation=1, clock=0, count=Count()))
            await host.handlers[0].until("message")
            host.handlers[0].memory = memory
            host.links[0].resume_bulk()
            await sending
            assert (await host.handlers[0].until("bulk"))[2] == body
            assert link.bytes_out == host.links[0].bytes_in
            link.close("enough")
            await host.handlers[0].until("closed")
            assert await handler.until("closed") == ("closed", "enough")

    asyncio.run(run())


def test_certificates_that_are_not_accepted(fabric: SimpleNamespace, authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path)
    now = datetime.now(UTC)
    expired = {"not_before": now - timedelta(days=9), "not_after": now - timedelta(days=2)}
    early = {"not_before": now + timedelta(days=2), "not_after": now + timedelta(days=9)}
    cases = [
        (other.issue(), "tls.ca"),
        (authority.issue(**expired), "certificate has expired; renew it"),
        (authority.issue(**early), "not yet valid; check the clocks"),
        (authority.issue("elsewhere.example"), "mismatch.*a name that the certificate bears"),
    ]

    async def run() -> None:
        for files, words in cases:
            async with fabric.listening(tls=TlsConfig(**files)) as (listener, host):
                said = await attempt(fabric, listener, TlsConfig(ca=authority.file))
                assert said.startswith("RefusedError certificate: the certificate of the syncer at localhost:")
                assert re.search(words, said)
                assert (await host.until("refused"))[1] == "tls"

    asyncio.run(run())


def test_tls_on_one_side_only_is_told(fabric: SimpleNamespace, authority: Authority) -> None:
    async def run() -> None:
        async with fabric.listening() as (listener, host):
            said = await attempt(fabric, listener, TlsConfig(ca=authority.file))
            assert "both sides" in said and said.startswith(("RefusedError", "UnreachableError"))
            assert "the peer speaks TLS" in (await host.until("refused", "protocol"))[2]
        async with fabric.listening(tls=TlsConfig(**authority.issue())) as (listener, host):
            said = await attempt(fabric, listener, None)
            assert "both sides" in said and said.startswith(("RefusedError", "UnreachableError"))
            await host.until("refused", "tls")

    asyncio.run(run())


def test_a_server_may_demand_client_certificates(fabric: SimpleNamespace, authority: Authority, tmp_path: Path) -> None:
    async def run() -> None:
        server = TlsConfig(**authority.issue(), ca=authority.file)
        async with fabric.listening(tls=server) as (listener, host):
            said = await attempt(fabric, listener, TlsConfig(ca=authority.file))
            assert said.startswith("RefusedError certificate") and "tls.cert" in said
            assert (await host.until("refused"))[1] == "tls"
            said = await attempt(fabric, listener, TlsConfig(ca=authority.file, **Authority(tmp_path).issue("l")))
            assert said.startswith("RefusedError certificate")
            link = await connect(f"localhost:{listener.address.port}", token=fabric.TOKEN, handler=fabric.Recorder(),
                                 tls=TlsConfig(ca=authority.file, **authority.issue("l")))  # fmt: skip
            link.close()

    asyncio.run(run())


def test_impossible_files_are_named(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue()
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("not a certificate")
    with pytest.raises(ConfigError, match="belong together"):
        TlsConfig(cert=files["cert"])
    with pytest.raises(ConfigError, match=r"needs tls\.cert"):
        TlsConfig(ca=authority.file).server_context()
    for config in (TlsConfig(ca=str(tmp_path / "none.pem")), TlsConfig(ca=str(garbage)),
                   TlsConfig(cert=files["cert"], key=authority.issue()["key"]),
                   TlsConfig(cert=str(garbage), key=files["key"])):  # fmt: skip
        with pytest.raises(ConfigError, match="cannot be used"):
            config.client_context()


def test_a_peer_that_never_begins_its_tls_handshake_is_given_up(fabric: SimpleNamespace, authority: Authority) -> None:
    async def run() -> None:
        async with fabric.listening(tls=TlsConfig(**authority.issue()), patience=0.3) as (listener, host):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.address.port)
            assert await asyncio.wait_for(reader.read(), fabric.PATIENCE) == b""
            assert (await host.until("refused"))[1] == "silent"
            writer.close()

    asyncio.run(run())


def test_nobody_there_over_tls(fabric: SimpleNamespace, authority: Authority) -> None:
    async def run() -> None:
        with pytest.raises(UnreachableError):
            await connect("127.0.0.1:1", token=fabric.TOKEN, handler=fabric.Recorder(), tls=TlsConfig(ca=authority.file))

    asyncio.run(run())


def test_refusals_are_the_same_over_tls(fabric: SimpleNamespace, authority: Authority) -> None:
    async def run() -> None:
        async with fabric.listening(tls=TlsConfig(**authority.issue())) as (listener, _):
            with pytest.raises(RefusedError) as caught:
                await connect(f"localhost:{listener.address.port}", token=fabric.TOKEN, handler=fabric.Recorder(),
                              run="another", tls=TlsConfig(ca=authority.file))  # fmt: skip
            assert caught.value.code == "run"

    asyncio.run(run())
