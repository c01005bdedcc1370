"""Ways to close rounds, side by side: the three of the published comparison of unequal hardware, or a policy's own."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from skerry.core.policy import ALL, Policy
from skerry.errors import ConfigError

RULES: dict[str, dict[str, Any]] = {
    "K=M": {"synchronous": True, "quorum": ALL},
    "K=1": {"synchronous": False, "quorum": 1, "grace": 0.0},
    "grace": {"synchronous": False, "quorum": 1},
}
"""What each of the three settles itself."""


def variants(policy: Policy, rule: str | None, own: Collection[str] = ()) -> dict[str, Policy]:
    """The policies to compare, by the name of their row. `own`: the policy's fields that the user has set, which no rule
    may overwrite."""
    if rule is None:
        rule = "policy" if any(name in settles for settles in RULES.values() for name in own) else "all"
    if rule == "policy":
        return {rule: policy}
    if rule not in ("all", *RULES):
        raise ConfigError(f"--rule {rule!r} is none that there is", remedy=f"choose one of all, {', '.join(RULES)}, policy")
    names = tuple(RULES) if rule == "all" else (rule,)
    for name in own:
        if any(name in RULES[one] for one in names):
            raise ConfigError(f"--set policy.{name} = {getattr(policy, name)!r}, but --rule {rule} settles that itself",
                              remedy="leave one of the two out, or give --rule policy")  # fmt: skip
    return {name: _variant(policy, name) for name in names}


def _variant(policy: Policy, name: str) -> Policy:
    if name == "K=M":
        return policy.replace(**RULES[name])
    grace = policy.grace or Policy().grace  # a preset of a synchronous policy may have none
    return policy.replace(**{"overlap": max(1, policy.overlap), "grace": grace, **RULES[name]})
