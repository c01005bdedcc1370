"""A model small enough to count by hand."""

from __future__ import annotations

from skerry.core.layout import Layout, TensorSpec, build_layout
from skerry.core.policy import Policy


def tiny_layout(policy: Policy) -> Layout:
    """One tensor more than fragments, of 2, 3, 4 ... elements; the first one is averaged directly."""
    specs = [TensorSpec(name=f"{i}.w", shape=(i + 2,), direct=i == 0) for i in range(policy.fragments + 1)]
    return build_layout(specs, policy.fragments, policy.fragmentation)
