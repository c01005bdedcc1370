"""Codecs: bit for bit what torch converts, any length, any alignment, no torch needed."""

import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch

from skerry.codecs import CODECS, GROUP, get_codec
from skerry.core.policy import CodecName
from skerry.errors import ConfigError

BF16 = get_codec("bf16")


def encoded(name: str, values: np.ndarray) -> bytearray:
    codec = get_codec(name)
    body = bytearray(codec.nbytes(values.size))
    codec.encode(values, memoryview(body))
    return body


def decoded(name: str, body: bytes | bytearray | memoryview, dtype: type = np.float32) -> np.ndarray:
    codec = get_codec(name)
    values = np.empty(len(body) // codec.nbytes(1), dtype)
    codec.decode(memoryview(body), values)
    return values


def all_kinds_of_fp32() -> np.ndarray:
    """Every upper half with the lower halves around a tie (signs, denormals, Inf, NaN are among them), and random ones."""
    upper = np.arange(1 << 16, dtype=np.uint32)[:, None] << 16
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    random = np.random.default_rng(1).integers(0, 1 << 32, 200_000, np.uint32)
    return np.concatenate([(upper | lower).ravel(), random]).view(np.float32)


def test_bf16_encodes_as_torch_does():
    values = all_kinds_of_fp32()
    values = values[~np.isnan(values)]
    ours = np.frombuffer(encoded("bf16", values), np.uint16)
    theirs = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(ours, theirs)


def test_bf16_keeps_nan_a_nan_of_its_sign_without_a_warning():
    values = all_kinds_of_fp32()
    values = values[np.isnan(values)]
    with np.errstate(all="raise"):
        back = decoded("bf16", encoded("bf16", values))
    assert np.isnan(back).all()
    np.testing.assert_array_equal(np.signbit(back), np.signbit(values))


def test_bf16_decodes_every_pattern_as_torch_does():
    patterns = np.arange(1 << 16, dtype=np.uint16)
    theirs = torch.from_numpy(patterns.view(np.int16)).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(decoded("bf16", patterns.tobytes()).view(np.uint32), theirs.view(np.uint32))


def test_bf16_is_little_endian():
    assert encoded("bf16", np.array([1.0, -2.0], np.float32)) == bytes([0x80, 0x3F, 0x00, 0xC0])


def test_fp32_is_the_identity_on_bits():
    values = all_kinds_of_fp32()
    body = encoded("fp32", values)
    assert body == values.tobytes()
    np.testing.assert_array_equal(decoded("fp32", body).view(np.uint32), values.view(np.uint32))


@pytest.mark.parametrize("name", CODECS)
def test_a_body_can_be_decoded_in_blocks_from_anywhere_and_wider(name):
    values = np.random.default_rng(2).standard_normal(3 * GROUP + 17).astype(np.float32)
    codec = get_codec(name)
    body = bytes(1) + encoded(name, values)  # at an odd address, and read-only
    whole = decoded(name, memoryview(body)[1:])
    wide = decoded(name, memoryview(body)[1:], np.float64)
    np.testing.assert_array_equal(wide, whole.astype(np.float64))
    for start, stop in [(0, GROUP), (GROUP, 3 * GROUP), (2 * GROUP, values.size)]:
        block = memoryview(body)[1 + codec.nbytes(start) : 1 + codec.nbytes(stop)]
        np.testing.assert_array_equal(decoded(name, block), whole[start:stop])


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("elements", [1, 2, 4])
def test_a_body_of_another_length_is_an_error(name, elements):
    codec, values = get_codec(name), np.zeros(3, np.float32)
    body = memoryview(bytearray(codec.nbytes(elements)))
    with pytest.raises(ValueError):
        codec.decode(body, values)
    with pytest.raises(ValueError):
        codec.encode(values, body)


def test_the_policy_knows_just_these_codecs():
    assert set(CODECS) == set(get_args(CodecName))
    assert all(codec.name == name for name, codec in CODECS.items())
    with pytest.raises(ConfigError, match="choose one of fp32, bf16"):
        get_codec("int3")


def test_codecs_need_no_torch():
    code = "import sys, skerry.codecs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
