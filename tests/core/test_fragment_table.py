"""core/fragment.py's table: every state with every input, on a real core; and docs/states.md, which is made from it.

    PYTHONPATH=tests .venv/bin/python tests/core/test_fragment_table.py     makes the page anew
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from skerry.core import fragment as home
from skerry.core.fragment import OWN, TABLE, UNASKED, Input, State
from skerry.core.messages import Abstain, Cancel, Outcome
from skerry.core.orders import CopyOut, Recovered, TakeOver
from support.desk import after, only
from support.island import Island

PAGE = Path(__file__).resolve().parents[2] / "docs" / "states.md"
BEGIN, END = "<!-- made from skerry.core.fragment.TABLE -->", "<!-- end of what was made -->"

# ------------------------------------------------------------------ the ways into a state

QUESTION = 20  # the one that is open where one is


def idle() -> Island:
    """Too late for two questions, after steps 1 and 5, and so it looks ahead: the next one is expected after step 9."""
    island = Island(on_excluded="carry", grace=0.9)
    for version, steps in ((1, 1), (2, 4)):
        island.step(steps)
        island.ask(version)
        island.deliver(version, version)
        island.copy(version)
        island.apply(version)
    return island


def no_base() -> Island:
    island = idle()
    island.welcome(generation=2)
    island.step()
    return island


def asked() -> Island:
    island = idle()
    island.step()
    assert only(island.ask(QUESTION), CopyOut)
    return island


def due() -> Island:
    island = idle()
    assert only(island.step(3), CopyOut) == [CopyOut(fragment=0, step=UNASKED)]
    return island


def ahead() -> Island:
    island = due()
    island.copy(UNASKED)
    return island


def handed() -> Island:
    island = idle()
    island.step()
    island.hand_over(QUESTION)
    return island


def ordered() -> Island:
    island = idle()
    island.step()
    assert only(island.deliver(5, 5), TakeOver)
    return island


def first_ordered() -> Island:
    island = no_base()
    assert only(island.deliver(5, 5), TakeOver)
    return island


def void(before: Callable[[], Island]) -> Callable[[], Island]:
    def island() -> Island:
        made = before()
        made.welcome(generation=3)
        made.step()
        return made

    return island


WAYS: dict[str, tuple[State, Callable[[], Island]]] = {
    "no base": (State.NO_BASE, no_base),
    "idle": (State.IDLE, idle),
    "copying for a question": (State.COPYING, asked),
    "copying ahead": (State.COPYING, due),
    "ahead": (State.AHEAD, ahead),
    "handed over": (State.HANDED, handed),
    "ordered": (State.ORDERED, ordered),
    "ordered for the first time": (State.ORDERED, first_ordered),
    "void after a copy": (State.VOID, void(asked)),
    "void after a copy ahead": (State.VOID, void(due)),
    "void after a take-over": (State.VOID, void(ordered)),
}

# ------------------------------------------------------------------ the inputs, each as all the events that may bring it


def verdict(outcome: Outcome) -> Callable[[Island], list]:
    return lambda island: island.answer(QUESTION, outcome)


def asked_much_later(island: Island) -> list:
    return island.step(island.policy.overlap + 1) + island.ask(30)


def copied(island: Island) -> list:
    island.steps += 1
    return island.copy(island.ordered_step)


def copied_nothing(island: Island) -> list:
    island.memory.settled[0] = after(99)
    return island.copy(island.ordered_step)


def recovered(island: Island) -> list:
    return island.feed(Recovered(fragment=0, version=9, rule="overwrite", step=0, until=None, count=after(island.steps)))


EVENTS: dict[Input, list[Callable[[Island], list]]] = {
    Input.ASKED: [lambda island: island.ask(30)],
    Input.AFRESH: [lambda island: island.ask(90, final=True), asked_much_later],
    Input.DUE: [lambda island: island.step(50)],
    Input.DELIVERED: [lambda island: island.deliver(9, 30)],
    Input.ANSWERED: [verdict("late"), verdict("stale"), verdict("refused"),
                     lambda island: island.feed(Cancel(fragment=0, step=QUESTION))],
    Input.ANEW: [lambda island: island.welcome(generation=9)],
    Input.COPIED: [copied],
    Input.NOTHING: [copied_nothing],
    Input.APPLIED: [lambda island: island.apply(5)],
    Input.RECOVERED: [recovered],
}  # fmt: skip
CASES = [pytest.param(way, given, event, id=f"{way}, {given.name} {number}")
         for way in WAYS for given in Input for number, event in enumerate(EVENTS[given])]  # fmt: skip
FOLLOWS = {("copying for a question", Input.COPIED): Input.ASKED}
"""What follows in the same event."""


def test_every_state_and_every_input_is_tried() -> None:
    assert set(TABLE) == {state for state, _ in WAYS.values()} == set(State)
    assert set(EVENTS) == set(Input) == {given for row in TABLE.values() for given in row}
    assert set(State) - {State.NO_BASE} <= {after for row in TABLE.values() for after in row.values()}


@pytest.mark.parametrize(("way", "given", "event"), CASES)
def test_the_table_is_what_happens(way: str, given: Input, event: Callable[[Island], list]) -> None:
    state, make = WAYS[way]
    island = make()
    fragment, before = island.core.fragments[0], (list(island.memory.base), list(island.memory.settled))
    assert fragment.state is state
    expected = TABLE[state].get(given)
    if expected is not None:
        event(island)
        then = FOLLOWS.get((way, given))
        assert fragment.state is (TABLE[expected][then] if then else expected)
    elif given in OWN and given is not Input.DUE:
        with pytest.raises(AssertionError):
            event(island)
        assert fragment.state is state
    else:
        actions = event(island)
        assert fragment.state is state and not only(actions, CopyOut) and not only(actions, TakeOver)
        assert (island.memory.base, island.memory.settled) == before


@pytest.mark.parametrize("way", [way for way, (state, _) in WAYS.items() if state is not State.IDLE])
def test_no_copy_is_due_while_something_is_under_way(way: str) -> None:
    fragment = WAYS[way][1]().core.fragments[0]
    with pytest.raises(AssertionError):
        fragment.copy_out(Input.DUE, UNASKED)


@pytest.mark.parametrize("way", WAYS)
def test_a_question_that_finds_no_place_in_the_table_is_abstained_from(way: str) -> None:
    state, make = WAYS[way]
    taken_up = Input.ASKED in TABLE[state] and way != "copying for a question"
    assert bool(only(make().ask(30), Abstain)) != taken_up


def test_an_end_of_another_order_than_the_trainer_has_is_a_mistake() -> None:
    for make, end in ((asked, lambda island: island.copy(QUESTION + 1)), (ordered, lambda island: island.apply(4)),
                      (asked, lambda island: island.apply(5)), (ordered, lambda island: island.copy(QUESTION))):  # fmt: skip
        with pytest.raises(AssertionError):
            end(make())


def test_the_state_is_changed_in_one_place() -> None:
    """By the lookup in the table, and where a fragment begins."""
    places = []
    for path in sorted(Path(home.__file__).parent.glob("*.py")):
        for function in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)):
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and node.attr == "state" and isinstance(node.ctx, ast.Store):
                    places.append((path.name, function.name))
    assert [place for place in places if place[0] in ("fragment.py", "learner.py", "pacing.py")] == [
        ("fragment.py", "__init__"), ("fragment.py", "_moved")]  # fmt: skip


# ------------------------------------------------------------------ the page


def drawn() -> str:
    """The table as text: arrows, and then every pair."""
    lines = ["\n| state | is |", "| --- | --- |", *(f"| {state.name} | {state.value} |" for state in State), ""]
    wide = max(len(state.name) for state in State)
    for state, row in TABLE.items():
        name = state.name
        for end in dict.fromkeys(end for end in row.values() if end is not state):
            arrow = f"--- {', '.join(given.name for given, to in row.items() if to is end)} "
            lines.append(f"    {name:<{wide}} {arrow:-<34}> {end.name}")
            name = ""
    lines += ["", f"| input | {' | '.join(state.name for state in State)} |", f"| --- |{' --- |' * len(State)}"]
    for given in Input:
        cells = [TABLE[state][given].name if given in TABLE[state] else "**!**" if given in OWN else "." for state in State]
        lines.append(f"| {given.name} | {' | '.join(cells)} |")
    lines += ["", "| input | is |", "| --- | --- |", *(f"| {given.name} | {given.value} |" for given in Input), ""]
    return "\n".join(lines)


def written(document: str) -> str:
    """The page with everything between its marker lines made anew."""
    before, _, rest = document.partition(BEGIN)
    return f"{before}{BEGIN}\n{drawn()}\n{END}{rest.partition(END)[2]}"


def test_the_page_is_what_the_table_says() -> None:
    document = PAGE.read_text()
    assert document == written(document), "run: PYTHONPATH=tests .venv/bin/python tests/core/test_fragment_table.py"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
