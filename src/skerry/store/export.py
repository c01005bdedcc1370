"""The exported model: model/model.safetensors (every trainable tensor, fp32, tied ones under each of their names) and
model/config.json (what the first learner said of its model). And the way in: values from such a file (`--init`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from skerry.core.layout import Layout
from skerry.errors import ConfigError, DataError
from skerry.store.files import settle
from skerry.store.snapshot import Origin, by_name, fill, mismatch, split, write_tensors


def export_model(folder: Path, layout: Layout, origin: Origin, theta: Sequence[NDArray[np.float32]]) -> None:
    """`theta`: of each fragment. Write the model's two files into `folder`, each whole or not at all. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = by_name(layout, theta)
    tensors |= {alias: tensors[name] for alias, name in origin.aliases.items() if name in tensors}
    part = folder / "model.part"
    write_tensors(part, tensors, {"format": "pt"})
    settle(part, folder / "model.safetensors")
    part.write_text(json.dumps(origin.config, indent=2) + "\n")
    settle(part, folder / "config.json")


def load_values(path: Path, layout: Layout) -> list[NDArray[np.float32]]:
    """The values of each fragment, by name from a safetensors file of any float type.

    Raises DataError if the file cannot be read, ConfigError if a tensor is missing or has another shape."""
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            shapes = {t.name: file.get_slice(t.name).get_shape() for t in layout.tensors if t.name in names}
            if why := mismatch(layout, shapes):
                raise ConfigError(f"{path} is not this model: {why}", remedy="give --init a file of the same model")
            theta = split(layout, np.empty(layout.total, np.float32))
            fill(layout, {name: file.get_tensor(name).float().numpy() for name in shapes}, theta)
            return theta
    except (SafetensorError, OSError) as error:
        raise DataError(f"cannot read {path}: {error}", remedy="give --init a safetensors file") from error


def check_values(path: Path) -> None:
    """Raises DataError if the file is no safetensors file; whether it is the model's is known only with the layout."""
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise DataError(f"cannot read {path}: {error}", remedy="give --init a safetensors file") from error
