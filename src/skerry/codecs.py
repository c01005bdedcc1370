"""Wire codecs: how fp32 values of a fragment become the bytes of a bulk body, and back. numpy alone, no torch.

Rules:
- Bytes are little-endian. Whatever the codec, the sender's fp32 value is what counts; a codec rounds to nearest even.
- The first nbytes(k) bytes of a body are the encoding of its first k elements, for every k that is a multiple of GROUP:
  so a body is decoded block by block in the cache, and later codecs that share a scale among neighbours fit in.
- Finite values are converted bit for bit as torch converts them (beyond the largest bf16: Inf); NaN stays a quiet NaN of
  its sign (torch's own NaN bits depend on the processor).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from skerry.errors import ConfigError

GROUP = 1024
"""Elements; see the rules above."""

assert sys.byteorder == "little", "bodies are read in place, so the machine must be little-endian"


class Codec(Protocol):
    """One way to write fp32 values as bytes."""

    @property
    def name(self) -> str:
        """As in the policy's codec_up and codec_down."""
        ...

    def nbytes(self, elements: int) -> int:
        """Bytes of the encoding of so many elements."""
        ...

    def encode(self, source: NDArray[np.float32], target: memoryview) -> None:
        """Write a flat fp32 array as bytes into `target` (writable, exactly nbytes(source.size) bytes, else ValueError)."""
        ...

    def decode(self, source: memoryview, target: NDArray[np.float32] | NDArray[np.float64]) -> None:
        """The inverse: fill a flat array, in fp32 or wider, from exactly nbytes(target.size) bytes, else ValueError."""
        ...


@dataclass(frozen=True)
class Cast:
    """A codec that is a change of the number format, element by element."""

    name: str
    dtype: np.dtype[Any]

    def nbytes(self, elements: int) -> int:
        return elements * self.dtype.itemsize

    def encode(self, source: NDArray[np.float32], target: memoryview) -> None:
        with np.errstate(all="ignore"):  # Inf and NaN are for the receiver to refuse, by name
            np.copyto(self._values(target, source.size), source, casting="unsafe")

    def decode(self, source: memoryview, target: NDArray[np.float32] | NDArray[np.float64]) -> None:
        np.copyto(target, self._values(source, target.size))

    def _values(self, body: memoryview, elements: int) -> NDArray[Any]:
        values = np.frombuffer(body, self.dtype)
        if values.size != elements:
            raise ValueError(f"{self.name}: a body of {body.nbytes} bytes for {elements} elements")
        return values


CODECS: dict[str, Codec] = {
    "fp32": Cast("fp32", np.dtype(np.float32)),
    "bf16": Cast("bf16", np.dtype(ml_dtypes.bfloat16)),
}
"""By name: as many as the policy knows."""


def get_codec(name: str) -> Codec:
    """The codec of that name. Raises ConfigError if there is none."""
    if name not in CODECS:
        raise ConfigError(f"no codec {name!r}", remedy=f"choose one of {', '.join(CODECS)}")
    return CODECS[name]
