"""A maker makes what the class itself makes, of the same arguments and no others."""

from __future__ import annotations

from typing import Any

import pytest

from skerry.core import messages, orders
from skerry.core.maker import maker
from skerry.core.messages import BodyName, Count, Report
from skerry.core.orders import CopyOut, Encode, TakeOver
from skerry.core.policy import Policy

ARGUMENTS: dict[type, dict[str, Any]] = {
    Report: {"learner": 1, "generation": 2, "clock": 3, "count": Count(4, 5, 6)},
    Encode: {"fragment": 1, "until": Count(1, 2, 3)},
    TakeOver: {"fragment": 1, "version": 2, "rule": "carry", "included": True, "step": 3},
    CopyOut: {"fragment": 1, "step": 2, "at": 3},
}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_it_makes_the_same_as_the_class(kind: type) -> None:
    made = maker(kind)(**ARGUMENTS[kind])
    assert type(made) is kind and made == kind(**ARGUMENTS[kind])


def test_every_message_has_one() -> None:
    kinds = {kind for room in (messages, orders) for kind in vars(room).values() if hasattr(kind, "__dataclass_fields__")}
    assert len(kinds) > 40 and all(maker(kind) for kind in kinds - {Policy})


def test_arguments_that_are_missing_unknown_or_without_a_name_are_refused() -> None:
    for given in ({"fragment": 1}, {"fragment": 1, "step": 2, "when": 3}):
        with pytest.raises(TypeError):
            maker(CopyOut)(**given)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        maker(CopyOut)(1, 2)  # type: ignore[call-arg, misc]


def test_a_tuple_with_names_is_made_of_all_its_items() -> None:
    made = maker(BodyName)(1, 2, 3, 4)
    assert type(made) is BodyName and made == BodyName(1, 2, 3, 4)
    with pytest.raises(TypeError):
        maker(BodyName)(1, 2, 3)  # type: ignore[call-arg]
