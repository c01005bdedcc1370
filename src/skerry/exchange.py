"""What is done to a fragment's values on the learner's side, whoever drives it. numpy and ml_dtypes, no torch.

Rules: a delivered value is rounded to its parameters' dtypes before anything else, and exactly that becomes the base: what a
trainer writes, reads back and differs from is the same number. Finite values are rounded to nearest even, bit for bit as torch
does. Differences are fp32; a body is made block by block, in the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from skerry.codecs import GROUP, get_codec
from skerry.core.layout import Layout
from skerry.core.messages import TakeOverRule
from skerry.core.policy import Policy

Values: TypeAlias = NDArray[np.float32]
Body: TypeAlias = NDArray[np.uint8]

RULES: tuple[TakeOverRule, ...] = ("overwrite", "rebase", "blend", "carry")
"""A rule's number, wherever one is packed."""
_BLOCK = 64 * GROUP  # elements worked on at a time


class Exchange:
    """Of one policy and layout. `dtypes`: of each tensor by name, as in torch ("bfloat16")."""

    def __init__(self, policy: Policy, layout: Layout, dtypes: Mapping[str, str]) -> None:
        self.up = get_codec(policy.codec_up)
        self.down = get_codec(policy.codec_down)
        self._short: list[list[tuple[slice, np.dtype[Any]]]] = [[] for _ in layout.sizes]
        for fragment, pieces in enumerate(layout.fragments):
            at = 0
            for piece in pieces:
                dtype = dtypes[layout.tensors[piece.tensor].name]
                if dtype not in ("float32", "float64"):  # the others do not hold every fp32 exactly
                    self._short[fragment].append((slice(at, at + piece.size), _short_float(dtype)))
                at += piece.size

    def hand_over(self, base: Values, copy: Values) -> Body:
        """The body of a contribution: base - copy, encoded."""
        up, size = self.up, copy.size
        body = np.empty(up.nbytes(size), np.uint8)
        target, scratch = body.data, np.empty(min(_BLOCK, size), np.float32)
        for start in range(0, size, _BLOCK):
            stop = min(start + _BLOCK, size)
            difference = np.subtract(base[start:stop], copy[start:stop], out=scratch[: stop - start])
            up.encode(difference, target[up.nbytes(start) : up.nbytes(stop)])
        return body

    def decode(self, fragment: int, body: memoryview, value: Values) -> None:
        """value = what was delivered, rounded to the parameters' dtypes."""
        self.down.decode(body, value)
        self.round(fragment, value)

    def round(self, fragment: int, value: Values) -> None:
        """To the parameters' dtypes, in place."""
        with np.errstate(all="ignore"):  # beyond the dtype's range: Inf, which the syncer will refuse by name
            for place, short in self._short[fragment]:
                value[place] = value[place].astype(short)


def change(rule: TakeOverRule, value: Values, base: Values, copy: Values | None, out: Values | None = None) -> Values | None:
    """What taking the value over adds to the parameters, so that what was done since the hand-over (rebase; `copy`: of the
    parameters then) or since the base (carry) stays; None for rules that need the value itself."""
    if rule == "rebase":
        assert copy is not None, "rebase without what was handed over"
        return np.subtract(value, copy, out=out)
    return np.subtract(value, base, out=out) if rule == "carry" else None


def _short_float(name: str) -> np.dtype[Any]:
    return np.dtype(np.float16 if name == "float16" else getattr(ml_dtypes, name))
