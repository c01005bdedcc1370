"""A syncer among peers that mean it harm. `python -m benchmarks.hostile [--frames N] [--seed S]`.

A real `skerry syncer` process, three honest learners (puppets: a real link, the real LearnerCore), and a fuzzer over real
sockets: frames of every kind, every field of every message at its edges and beyond, made from the table of kinds and the types
of the dataclasses, so that a new message is fuzzed by itself. A third of them come before a handshake, the rest over links that
were let in with a token that is valid (for a learner of its own: whoever may be any learner can take any learner's place), with
a Join that is valid or without. Then 500 idle connections from the learners' own
address, and one more learner. Bars:

- the syncer is up at the end, and its resident memory as it was after the first tenth, to 10%
- all three honest learners in >= 99% of the rounds
- a learner that comes when 500 strangers idle joins within 5 s
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import random
import secrets
import struct
import subprocess
import sys
import tempfile
import time
import typing
from pathlib import Path
from typing import Any

import msgspec
import psutil
from benchmarks._table import Row, at_least, at_most, report

from skerry.core.messages import Count, Join, Leave, Welcome
from skerry.core.policy import Policy
from skerry.errors import SkerryError
from skerry.fabric.address import Address
from skerry.fabric.client import connect
from skerry.fabric.connection import Connection
from skerry.fabric.handshake import ask_in, hello
from skerry.fabric.messages import KINDS, Hello, Kind
from skerry.fabric.ranges import EMPTY, LARGEST
from skerry.fabric.tokens import Token
from skerry.fabric.wire import MAGIC, VERSION
from skerry.store.metrics import read
from skerry.store.records import Round

HONEST, STRANGERS, FUZZERS = 3, 500, 8
LEAST_ROUNDS = 4
ENEMY = 7  # the learner that the fuzzer may be
TOKENS = """
skerry-token honest learner,observer {}
skerry-token enemy learner=7,observer,operator {}
"""
BEFORE = 1 / 3  # share of the frames that come before a handshake
A_LINK = 40  # frames that a fuzzer has ready for one connection: most connections end at the first
POLICY = Policy(fragments=4, interval=8, overlap=2, quorum=HONEST, grace=0.5, wait_for=HONEST, round_timeout=600.0)
EDGES = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 2**31 - 1, 2**31, LARGEST, LARGEST + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
NUMBERS = (float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.0, -1.0, 5e-324, 1.7e308)
TEXTS = ("", "x", "\0", "ÿ" * 300, "y" * 20_000, "layout", "observer", "learner", "bulk")


class Fuzzer:
    """Frames by a seeded generator. `known`: what makes a message get further: ids, generations, the layout's hash."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._wild = 1.0  # how far from what is right the frame in hand is
        self.known: dict[str, Any] = {"hash": "x" * 64, "layout": "x" * 64}

    def frame(self, kind: Kind, *, headers: bool = True) -> bytes:
        """One of that kind; its header may be wrong, too."""
        rng = self.random
        self._wild = 1.0 if rng.random() < 0.5 else 0.1
        fields = {field.name: self._value(field.name, hint) for field, hint in _typed(kind.cls)
                  if rng.random() > 0.03 * self._wild}  # fmt: skip
        raw = msgspec.msgpack.encode([self._edge(), fields] if kind.bulk and kind.cls.__name__ != "Chunk" else fields)
        length, version, number, magic = len(raw), VERSION, kind.number, MAGIC
        body = rng.choice((1, 100, 3200)) if kind.bulk else 0
        chunk = bytes(min(body, 3200)) if kind.cls.__name__ == "Chunk" else b""
        if headers and rng.random() < 0.1:
            length = rng.choice((0, 1, length + 1, 4096, 4097, 4 << 20, 2**32 - 1))
            body = rng.choice((0, 1, 2**53, 2**63, 2**64 - 1))
            version, number = rng.choice((VERSION, 0, 65535)), rng.choice((kind.number, 0, 99, 65535))
            magic = rng.choice((MAGIC, MAGIC, b"GET ", b"\0\0\0\0"))
        if rng.random() < 0.05:
            raw = rng.randbytes(len(raw))
        data = struct.pack("<4sHHIQ", magic, version, number, length, body) + raw + chunk
        return data[: rng.randrange(1, len(data))] if rng.random() < 0.03 else data

    def _value(self, name: str, hint: Any) -> Any:
        rng = self.random
        if name in self.known and rng.random() < 0.7:
            return self.known[name]
        if name in EMPTY and rng.random() > 0.5 * self._wild:
            return [] if typing.get_origin(hint) is tuple else ""
        if rng.random() < 0.02 * self._wild:
            return rng.choice((None, [], {}, "", -1, b"", True))  # of another type
        arguments = typing.get_args(hint)
        if hint is int:
            return self._edge() if rng.random() < 0.5 * self._wild else rng.randrange(0, 40)
        if hint is bool:
            return rng.random() < 0.5
        if hint is float or float in arguments:
            return rng.choice(NUMBERS)
        if hint is str:
            return rng.choice(TEXTS)
        if hint is bytes:
            return rng.randbytes(rng.choice((0, 1, 32, 32, 64, 65)))
        if hint is Count:
            length = rng.choice((2, 4)) if rng.random() < 0.1 * self._wild else 3
            return [self._edge() if rng.random() < 0.3 * self._wild else rng.randrange(0, 2000) for _ in range(length)]
        if typing.get_origin(hint) is tuple:
            return [self._value("", arguments[0]) for _ in range(rng.choice((0, 1, POLICY.fragments, POLICY.fragments, 50)))]
        if typing.get_origin(hint) is typing.Literal:
            return rng.choice((*arguments, "x"))
        if dataclasses.is_dataclass(hint):
            return {field.name: self._value(field.name, of) for field, of in _typed(hint)}
        raise AssertionError(f"no values are made for {hint}")

    def _edge(self) -> int:
        return self.random.choice(EDGES)


def _typed(cls: Any) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(cls)
    return [(field, hints[field.name]) for field in dataclasses.fields(cls)]


class Assault:
    """Sends `frames` in all."""

    def __init__(self, address: Address, token: Token, fuzzer: Fuzzer, frames: int) -> None:
        self._address, self._token, self._fuzzer = address, token, fuzzer
        self._frames = frames
        self.sent = self.links = self.joined = 0
        self.kinds: dict[str, int] = {kind.cls.__name__: 0 for kind in KINDS}

    async def run(self) -> None:
        await asyncio.gather(*(self._fuzz() for _ in range(FUZZERS)))

    async def _fuzz(self) -> None:
        while self.sent < self._frames:
            try:
                if self._fuzzer.random.random() < 0.5:
                    await self._before()
                else:
                    await self._within()
            except (OSError, SkerryError, TimeoutError):
                await asyncio.sleep(0.02)  # turned away: the syncer takes no more just now

    def _some(self, kinds: list[Kind], count: int, *, headers: bool = True) -> bytes:
        """As many frames as are left, at most `count`."""
        chosen = [self._fuzzer.random.choice(kinds) for _ in range(min(count, self._frames - self.sent))]
        self.sent += len(chosen)
        for kind in chosen:
            self.kinds[kind.cls.__name__] += 1
        return b"".join(self._fuzzer.frame(kind, headers=headers) for kind in chosen)

    async def _before(self) -> None:
        """A stranger's: one Hello at most is read; what is behind it waits in the kernel."""
        reader, writer = await asyncio.open_connection(self._address.host, self._address.port)
        try:
            with contextlib.suppress(OSError):
                writer.write(self._some(list(KINDS), 1 + self._fuzzer.random.randrange(A_LINK // 2)))
                writer.write_eof()
                await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()

    async def _within(self) -> None:
        """Over connections that were let in: as a learner (with a valid Join, or with none), an observer or an operator."""
        rng = self._fuzzer.random
        role = rng.choice(("learner", "learner", "learner", "learner", "observer", "operator"))
        opened: list[Connection] = []
        try:
            greeting = await self._open(hello(role, self._token.identity, learner=ENEMY), opened)
            if role == "learner":
                await self._open(hello("bulk", self._token.identity, session=greeting.session), opened)
            self.links += 1
            if role == "learner" and rng.random() < 0.5:
                self.joined += 1
                self._fuzzer.known |= {"learner": ENEMY, "generation": 1 + rng.randrange(3)}
                opened[0].send(Join(learner=ENEMY, generation=rng.randrange(2), layout=self._fuzzer.known["layout"]))
            known = [kind for kind in KINDS if kind.sender != "server"] if rng.random() < 0.8 else list(KINDS)
            for connection in opened:
                bulk = connection is not opened[0]
                fit = [kind for kind in known if kind.bulk == bulk and not (kind.cls is Join and rng.random() < 0.8)]
                connection._write(self._some(fit, 1 + rng.randrange(A_LINK), headers=rng.random() < 0.3))
            while not all(connection.has_ended for connection in opened) and not self._quiet(opened):
                await asyncio.sleep(0.005)
        finally:
            for connection in opened:
                connection.end("done", abort=True)

    def _quiet(self, opened: list[Connection]) -> bool:
        """What was sent has left, and some of it was perhaps read."""
        return all(connection.idle or connection.has_ended for connection in opened) and self._fuzzer.random.random() < 0.2

    async def _open(self, first: Hello, opened: list[Connection]) -> Any:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection("syncer"), self._address.host, self._address.port)
        opened.append(connection)
        async with asyncio.timeout(10):
            return (await ask_in(connection, self._token, first)).greeting


class Victims:
    """The honest learners, stepping at a pace that a small model would have; each connects again if its link ends."""

    def __init__(self, address: str, count: int) -> None:
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
        from support.puppet import Puppet, small_layout

        self.layout = small_layout(POLICY)
        self.address = address
        self.puppets = [Puppet(POLICY, self.layout, learner=i, seed=i) for i in range(count)]
        self.relinked = 0

    async def train(self, token: Token) -> None:
        for each in self.puppets:
            each.token = token
            await each.join(self.address)
        while True:
            for each in self.puppets:
                if each.ended:
                    self.relinked += 1
                    try:
                        await each.join(self.address)
                    except SkerryError as error:
                        each.ended = str(error)
                elif each.begun:
                    each.step()
            await asyncio.sleep(0.02)


async def besiege(folder: Path, frames: int, seed: int) -> dict[str, Any]:
    """All of it against one syncer; what came of it."""
    run_dir = folder / "run"
    lines = TOKENS.strip().format(secrets.token_hex(16), secrets.token_hex(16)).splitlines()
    tokens = [folder / name for name in ("tokens", "honest", "enemy")]
    for path, text in zip(tokens, ("\n".join(lines), *lines), strict=True):
        path.write_text(text)
    command = [sys.executable, "-m", "skerry.cli", "syncer", "--run-dir", str(run_dir), "--log", "json",
               "--token-file", str(tokens[0])]  # fmt: skip
    for name in ("fragments", "interval", "overlap", "quorum", "grace", "wait_for", "round_timeout"):
        command += [f"--policy.{name.replace('_', '-')}", str(getattr(POLICY, name))]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
        try:
            return await _play(process, folder, frames, seed)
        finally:
            process.terminate()
            process.wait(60)


async def _play(process: subprocess.Popen[bytes], folder: Path, frames: int, seed: int) -> dict[str, Any]:
    log = folder / "log"
    assert process.stdout is not None
    line = (await asyncio.to_thread(process.stdout.readline)).decode()
    assert line, f"the syncer did not begin: {log.read_text()[-2000:]}"
    address, honest, enemy = line.split()[2], Token.read(folder / "honest"), Token.read(folder / "enemy")
    syncer = psutil.Process(process.pid)
    victims = Victims(address, HONEST)
    training = asyncio.create_task(victims.train(honest))
    while not all(each.begun for each in victims.puppets):
        assert not training.done(), training.exception()
        await asyncio.sleep(0.05)
    fuzzer = Fuzzer(seed)
    fuzzer.known |= {"hash": victims.layout.hash, "layout": victims.layout.hash, "run": ""}
    where, began = Address.parse(address), time.monotonic()
    await Assault(where, enemy, fuzzer, frames // 10).run()
    at_first = syncer.memory_info().rss
    assault = Assault(where, enemy, fuzzer, frames - frames // 10)
    await assault.run()
    span, after = time.monotonic() - began, syncer.memory_info().rss
    joined = await _among_strangers(where, honest, victims.layout.hash)
    while len(rounds := _rounds(folder)) < LEAST_ROUNDS and time.monotonic() - began < span + 60:
        await asyncio.sleep(0.5)
    training.cancel()
    up = process.poll() is None
    whole = sum(set(range(HONEST)) <= set(record.included) for record in rounds)
    return {"up": up, "frames_s": frames / span, "first": at_first, "after": after, "join_s": joined, "rounds": len(rounds),
            "whole": whole / max(len(rounds), 1), "relinked": victims.relinked, "links": assault.links, "joins": assault.joined,
            "log": log.stat().st_size, "rarest": min(assault.kinds.values())}  # fmt: skip


def _rounds(folder: Path) -> list[Round]:
    return [record for record in read(folder / "run" / "metrics.jsonl") if isinstance(record, Round)]


async def _among_strangers(where: Address, token: Token, layout: str) -> float:
    """Seconds until a learner that comes when strangers idle is welcomed."""
    streams = [await asyncio.open_connection(where.host, where.port) for _ in range(STRANGERS)]
    began = time.monotonic()
    welcomed = asyncio.Event()

    class Newcomer:
        def on_message(self, link: Any, message: Any) -> None:
            if isinstance(message, Welcome):
                welcomed.set()
                link.send(Leave(learner=message.learner, generation=message.generation, count=Count()))

        def bulk_buffer(self, link: Any, message: Any, nbytes: int) -> memoryview:
            return memoryview(bytearray(nbytes))

        def on_bulk(self, link: Any, message: Any, buffer: memoryview) -> None: ...

        def on_bulk_lost(self, link: Any, message: Any, buffer: memoryview) -> None: ...

        def on_closed(self, link: Any, reason: str) -> None: ...

    while time.monotonic() - began < 60:
        try:
            link = await connect(where, token=token, handler=Newcomer())
        except SkerryError:
            await asyncio.sleep(0.1)
            continue
        link.send(Join(layout=layout))
        async with asyncio.timeout(60):
            await welcomed.wait()
        link.close()
        await link.wait_closed()
        break
    span = time.monotonic() - began
    for _, writer in streams:
        writer.close()
    return span


def main(arguments: list[str] | None = None) -> int:
    """The bench."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--frames", type=int, default=1_000_000, help="frames in all")
    parser.add_argument("--seed", type=int, default=1, help="of the fuzzer")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(besiege(Path(folder), given.frames, given.seed))
    return report("hostile", [
        Row("frames", given.frames, "", ">= 1", given.frames > 0),
        Row("frames a second", found["frames_s"]),
        Row("links that were let in, of which said a valid Join", f"{found['links']}, {found['joins']}"),
        Row("frames of the rarest kind", found["rarest"], "", ">= 1", found["rarest"] > 0),
        Row("the syncer is up", str(found["up"]), "", "True", found["up"]),
        at_most("its resident memory, of that after the first tenth", found["after"] / found["first"], 1.1),
        Row("rounds", found["rounds"], "", ">= 1", found["rounds"] > 0),
        at_least("rounds with every honest learner", found["whole"], 0.99),
        Row("links that honest learners lost", found["relinked"]),
        at_most("joining among 500 idle strangers", found["join_s"], 5.0, "s"),
        at_most("the syncer's log", found["log"] / 1e6, 1.0, "MB"),
    ])  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
