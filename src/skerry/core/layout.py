"""The layout: which tensors a run trains, and which pieces of them form which fragment. A pure function of both.

Rules: fragments partition the trainable elements; a fragment is a set of whole tensors today, written as pieces
(tensor, start, stop) so that a rank of a sharded learner can later hand over its own slice. The hash covers all of it:
two learners with equal hashes can exchange fragments without another word.
Source: balanced tensor fragmentation, Decoupled DiLoCo section on fragments; strided, Streaming DiLoCo section 3.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Literal

from skerry.errors import ConfigError

Fragmentation = Literal["balanced", "strided", "layer"]


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One trainable tensor. `direct`: averaged directly instead of by RDA (embeddings, what is tied to them, patterns)."""

    name: str
    shape: tuple[int, ...]
    direct: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Elements [start, stop) of the flattened tensor with that index."""

    tensor: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.stop - self.start


@dataclass(frozen=True)
class Layout:
    """Tensors and the P fragments that partition them. In memory and on the wire a fragment is its pieces in order."""

    tensors: tuple[TensorSpec, ...]
    fragments: tuple[tuple[Piece, ...], ...]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Elements of each fragment."""
        return tuple(sum(piece.size for piece in fragment) for fragment in self.fragments)

    @cached_property
    def total(self) -> int:
        """Elements of all fragments."""
        return sum(self.sizes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each fragment begins in one flat array of all of them."""
        starts, at = [], 0
        for size in self.sizes:
            starts.append(at)
            at += size
        return tuple(starts)

    @cached_property
    def hash(self) -> str:
        """Hex SHA-256 of the canonical JSON form."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON text: equal layouts give equal text."""
        return json.dumps(
            {
                "tensors": [[t.name, list(t.shape), t.direct] for t in self.tensors],
                "fragments": [[[p.tensor, p.start, p.stop] for p in f] for f in self.fragments],
            },
            separators=(",", ":"),
        )

    @staticmethod
    def from_json(text: str) -> Layout:
        """The inverse of to_json. Raises ConfigError if the text is no layout or its pieces do not partition the tensors."""
        try:
            plain = json.loads(text)
            layout = Layout(
                tuple(TensorSpec(name=str(n), shape=tuple(int(d) for d in s), direct=bool(e)) for n, s, e in plain["tensors"]),
                tuple(tuple(Piece(tensor=int(i), start=int(a), stop=int(b)) for i, a, b in f) for f in plain["fragments"]),
            )
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise ConfigError(f"not a layout: {error}", remedy="send what Layout.to_json gave") from error
        layout._check()
        return layout

    def _check(self) -> None:
        if len({t.name for t in self.tensors}) < len(self.tensors) or any(d < 0 for t in self.tensors for d in t.shape):
            raise ConfigError("not a layout: two tensors of one name, or a negative size", remedy="send Layout.to_json's text")
        seen: dict[int, int] = dict.fromkeys(range(len(self.tensors)), 0)
        for piece in sorted((p for f in self.fragments for p in f), key=lambda p: (p.tensor, p.start)):
            if seen.get(piece.tensor) != piece.start or piece.stop <= piece.start:
                raise ConfigError("not a layout: its pieces do not partition its tensors", remedy="send Layout.to_json's text")
            seen[piece.tensor] = piece.stop
        if any(seen[i] != t.size for i, t in enumerate(self.tensors)) or any(not f for f in self.fragments):
            raise ConfigError("not a layout: its pieces do not partition its tensors", remedy="send Layout.to_json's text")


def build_layout(tensors: Iterable[TensorSpec], fragments: int, fragmentation: Fragmentation,
                 direct: Sequence[str] = ()) -> Layout:  # fmt: skip
    """Divide the tensors into P fragments. `direct`: patterns (regular expressions, searched in names) averaged directly.

    Deterministic: the order in which the tensors come does not matter. Raises ConfigError if P exceeds what can be divided.
    """
    specs = tuple(sorted((_marked(t, direct) for t in tensors if t.size), key=lambda t: t.name))
    if not specs:
        raise ConfigError("the model has no trainable parameters", remedy="pass one whose parameters require gradients")
    if fragmentation == "balanced":
        groups = _balanced(specs, fragments)
    else:
        groups = _by_layer(specs, fragments, strided=fragmentation == "strided")
    pieces = tuple(tuple(Piece(tensor=i, start=0, stop=specs[i].size) for i in sorted(group)) for group in groups)
    return Layout(specs, pieces)


def _marked(tensor: TensorSpec, direct: Sequence[str]) -> TensorSpec:
    if any(re.search(pattern, tensor.name) for pattern in direct):
        return TensorSpec(name=tensor.name, shape=tensor.shape, direct=True)
    return tensor


def _too_many(fragments: int, have: int, what: str) -> ConfigError:
    return ConfigError(f"policy.fragments = {fragments} is more than the {have} {what}",
                       remedy=f"set it to {have} or less")  # fmt: skip


def _balanced(specs: Sequence[TensorSpec], count: int) -> list[list[int]]:
    """Greedy bin packing, largest tensor first, ties by name; tensors averaged directly (embeddings) have bins of their own."""
    if count > len(specs):
        raise _too_many(count, len(specs), "trainable tensors")
    apart = [i for i, t in enumerate(specs) if t.direct]
    rest = [i for i, t in enumerate(specs) if not t.direct]
    if count == 1 or not apart or not rest:
        return _packed(specs, range(len(specs)), count)
    share = sum(specs[i].size for i in apart) / sum(t.size for t in specs)
    bins = min(len(apart), max(1, round(count * share), count - len(rest)), count - 1)
    return _packed(specs, apart, bins) + _packed(specs, rest, count - bins)


def _packed(specs: Sequence[TensorSpec], members: Iterable[int], bins: int) -> list[list[int]]:
    loads = [(0, b) for b in range(bins)]
    groups: list[list[int]] = [[] for _ in range(bins)]
    for i in sorted(members, key=lambda i: (-specs[i].size, specs[i].name)):
        load, b = heapq.heappop(loads)
        groups[b].append(i)
        heapq.heappush(loads, (load + specs[i].size, b))
    return groups


_LAYER = re.compile(r"^(.*?\.)?(\d+)\.")


def _by_layer(specs: Sequence[TensorSpec], count: int, *, strided: bool) -> list[list[int]]:
    """Whole layers (by the first number in a tensor's name; what has none goes with the first layer) to fragments:
    fragment p takes consecutive layers, or strided every P-th one."""
    layers: dict[int, list[int]] = {}
    for i, tensor in enumerate(specs):
        found = _LAYER.match(tensor.name)
        layers.setdefault(int(found[2]) if found else -1, []).append(i)
    if len(layers) > 1:
        outside = layers.pop(-1, [])
        layers[min(layers)] += outside
    if count > len(layers):
        raise _too_many(count, len(layers), "layers found in the parameters' names (fragmentation by layer)")
    ordered = [layers[number] for number in sorted(layers)]
    groups: list[list[int]] = [[] for _ in range(count)]
    for position, members in enumerate(ordered):
        groups[position % count if strided else position * count // len(ordered)] += members
    return groups
