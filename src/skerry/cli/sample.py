"""`skerry sample`: text from a model that a run exported."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from skerry.cli.options import parse

EXAMPLES = """
skerry sample runs/demo
skerry sample runs/demo --prompt "def main(" --bytes 400 --temperature 0.6
"""


@dataclass(frozen=True, kw_only=True)
class SampleCommand:
    """Write text with a model that a run exported, byte by byte."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's directory, or a folder with model.safetensors and config.json."""
    prompt: str = "\n"  # text that the model goes on from
    bytes: int = 500  # how much it writes
    temperature: float = 0.8  # 0: always the likeliest byte
    seed: int = 0  # the same seed gives the same text


def main(arguments: list[str]) -> int:
    """The command."""
    command = parse(SampleCommand, arguments, command="sample", examples=EXAMPLES)
    import torch  # late: --help need not wait for it

    from skerry.recipe.sample import load_model, sample

    torch.set_num_threads(1)  # a model this small, one byte at a time: more threads only wait for each other
    model, prompt = load_model(command.run), command.prompt.encode()
    drawn = sample(model, prompt, count=command.bytes, temperature=command.temperature, seed=command.seed)
    sys.stdout.buffer.write(prompt)
    for byte in drawn:
        sys.stdout.buffer.write(bytes((byte,)))
        sys.stdout.buffer.flush()
    sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
    return 0
