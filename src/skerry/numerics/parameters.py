"""The trainable parameters of a model, and moving fragments between them and shared memory.

Rules: a parameter that several modules share is one tensor under its first name, the others are aliases; frozen ones are
left out; embeddings (and so what is tied to them) are averaged directly. A fragment in memory is fp32 whatever the
parameters are; values come already rounded to the parameter's dtype, so writing one and reading it back gives it exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from skerry.core.layout import Layout, TensorSpec
from skerry.errors import ConfigError

Values: TypeAlias = NDArray[np.float32]


class Parameters:
    """A model's trainable parameters by name."""

    def __init__(self, model: torch.nn.Module) -> None:
        """Raises ConfigError if there are none, or some that are not real floating-point numbers."""
        self.by_name: dict[str, torch.nn.Parameter] = {}
        self.aliases: dict[str, str] = {}  # further names -> the name in by_name
        names: dict[int, str] = {}  # by identity
        for raw, parameter in model.named_parameters(remove_duplicate=False):
            if not parameter.requires_grad or not parameter.numel():
                continue
            name = raw.replace("_orig_mod.", "")  # torch.compile's wrapper is no part of the model
            if not parameter.is_floating_point():
                raise ConfigError(f"parameter {name} is {parameter.dtype}", remedy="train real floating-point parameters only")
            if names.setdefault(id(parameter), name) == name:
                self.by_name[name] = parameter
            else:
                self.aliases[name] = names[id(parameter)]
        if not self.by_name:
            raise ConfigError("the model has no trainable parameters", remedy="pass one whose parameters require gradients")
        embeddings = {
            names.get(id(module.weight))
            for module in model.modules()
            if isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag)
        }
        self.specs = tuple(
            TensorSpec(name=name, shape=tuple(parameter.shape), direct=name in embeddings)
            for name, parameter in self.by_name.items()
        )
        self.dtypes = {name: str(parameter.dtype).removeprefix("torch.") for name, parameter in self.by_name.items()}


class Fragments:
    """The parameters, fragment by fragment. Every method takes a fragment's flat fp32 array in shared memory."""

    def __init__(self, parameters: Parameters, layout: Layout) -> None:
        self._members: list[list[tuple[torch.nn.Parameter, int, int]]] = []
        for pieces in layout.fragments:
            members, at = [], 0
            for piece in pieces:
                tensor = layout.tensors[piece.tensor]
                assert piece.size == tensor.size, "a learner of one process hands over whole tensors"
                members.append((parameters.by_name[tensor.name], at, at + piece.size))
                at += piece.size
            self._members.append(members)

    def copy_out(self, fragment: int, target: Values) -> None:
        """target = parameters."""
        self._each(fragment, target, lambda part, parameter: part.copy_(parameter))

    def overwrite(self, fragment: int, value: Values) -> None:
        """parameters = value."""
        self._each(fragment, value, lambda part, parameter: parameter.copy_(part))

    def add(self, fragment: int, change: Values) -> None:
        """parameters += change, rounded once."""
        self._each(fragment, change, _add)

    def blend(self, fragment: int, value: Values, share: float) -> None:
        """parameters = share * value + (1 - share) * parameters, rounded once."""

        def lerp(part: torch.Tensor, parameter: torch.nn.Parameter) -> None:
            if parameter.dtype == part.dtype and parameter.device == part.device:
                parameter.lerp_(part, share)
            else:
                parameter.copy_(parameter.to("cpu", torch.float32).lerp_(part, share))

        self._each(fragment, value, lerp)

    def _each(self, fragment: int, area: Values, do: Callable[[torch.Tensor, torch.nn.Parameter], object]) -> None:
        flat = torch.from_numpy(area)
        with torch.no_grad():
            for parameter, start, stop in self._members[fragment]:
                do(flat[start:stop].view(parameter.shape), parameter)


def _add(part: torch.Tensor, parameter: torch.nn.Parameter) -> None:
    if parameter.dtype == part.dtype and parameter.device == part.device:
        parameter.add_(part)
    else:
        parameter.copy_(parameter.to("cpu", torch.float32).add_(part))
