"""Policies for seeded storms."""

from __future__ import annotations

from random import Random

from skerry.core.policy import ALL, Policy


def some_policy(random: Random) -> Policy:
    """Any that works, but for what is lost by the policy's own will: nothing is but by overlap."""
    synchronous, interval = random.random() < 0.3, random.randint(2, 6)
    overlap = random.randint(0 if synchronous else 1, min(3, interval - 1))
    return Policy(
        fragments=random.randint(1, 4),
        interval=interval,
        overlap=overlap,
        synchronous=synchronous,
        quorum=ALL if synchronous else random.choice([ALL, 1, 1, 2]),
        grace=random.choice([0.0, 0.9]),
        wait_for=random.choice([1, 1, 2]),
        on_included=random.choice(["overwrite", "rebase"] if overlap else ["overwrite"]),
        silent_after=random.choice([2.0, 10.0]),
        round_timeout=random.choice([1.0, 20.0]),
        sync_timeout=5.0,
        norm_limit=random.choice([0.0, 2.0, 10.0]),
        weight_limit=random.choice([0.0, 1.0, 10.0]),
        quarantine_after=random.choice([0, 1, 2, 5]),
        steps=random.choice([0, 0, 6, 25]),
        tokens=random.choice([60, 200, 800]),
    )
