"""The learner's arithmetic on fragments: bit for bit what torch would do with the parameters, in blocks as in one piece."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skerry.codecs import get_codec
from skerry.core.layout import TensorSpec, build_layout
from skerry.core.policy import Policy
from skerry.exchange import RULES, Exchange, change

SIZE = 150_000  # more than two blocks, and a rest
DTYPES = ("float32", "bfloat16", "float16", "float64")


def numbers(seed: int) -> np.ndarray:
    """Of all sizes that fp32 knows, with ties between two neighbours of the short ones."""
    rng = np.random.default_rng(seed)
    found = (rng.normal(size=SIZE) * 10.0 ** rng.integers(-44, 38, SIZE)).astype(np.float32)
    found[::7] = (found[::7].view(np.uint32) & 0xFFFF8000).view(np.float32)  # half a bfloat16's last place
    found[::11] = (found[::11].view(np.uint32) & 0xFFFFF000).view(np.float32)  # and a float16's
    return found


@pytest.mark.parametrize("down", ["fp32", "bf16"])
def test_a_value_is_rounded_as_its_parameters_round_it(down: str) -> None:
    specs = [TensorSpec(name=f"{i}.{dtype}", shape=(SIZE // 8,)) for i in range(2) for dtype in DTYPES]
    layout = build_layout(specs, 1, "balanced")
    exchange = Exchange(Policy(fragments=1, codec_down=down), layout, {spec.name: spec.name.split(".")[1] for spec in specs})
    delivered = numbers(1)
    body = np.empty(exchange.down.nbytes(SIZE), np.uint8)
    exchange.down.encode(delivered, body.data)
    value = np.empty(SIZE, np.float32)
    exchange.decode(0, body.data, value)
    get_codec(down).decode(body.data, delivered)
    at = 0
    for piece in layout.fragments[0]:
        dtype = getattr(torch, layout.tensors[piece.tensor].name.split(".")[1])
        expected = torch.from_numpy(delivered[at : at + piece.size]).to(dtype).float().numpy()
        assert np.array_equal(value[at : at + piece.size].view(np.uint32), expected.view(np.uint32)), dtype
        at += piece.size
    assert at == SIZE


@pytest.mark.parametrize("up", ["fp32", "bf16"])
def test_a_body_made_in_blocks_is_the_difference_encoded(up: str) -> None:
    layout = build_layout([TensorSpec(name="w", shape=(SIZE,))], 1, "balanced")
    exchange = Exchange(Policy(fragments=1, codec_up=up), layout, {"w": "float32"})
    base, copy = numbers(2), numbers(3)
    with np.errstate(all="ignore"):
        body = exchange.hand_over(base, copy)
        whole = (torch.from_numpy(base) - torch.from_numpy(copy)).to({"fp32": torch.float32, "bf16": torch.bfloat16}[up])
    assert body.tobytes() == whole.view(torch.uint8).numpy().tobytes()


def test_what_each_rule_adds() -> None:
    """The base is 2, what was handed over 4, the value 10."""
    value, base, copy = (np.full(3, number, np.float32) for number in (10, 2, 4))
    added = {rule: change(rule, value, base, copy) for rule in RULES}
    assert {rule: None if array is None else array.tolist() for rule, array in added.items()} == {
        "overwrite": None, "blend": None, "rebase": [6] * 3, "carry": [8] * 3,
    }  # fmt: skip
    out = np.zeros(3, np.float32)
    assert change("carry", value, base, None, out) is out and out.tolist() == [8] * 3
    assert value.tolist() == [10] * 3
