"""SyncerDriver over a log that commits when the test lets it: nothing leaves before, and the order stays."""

from __future__ import annotations

from typing import Any

import pytest

from skerry.core.messages import (
    Ask,
    Close,
    Contribution,
    Count,
    Delivery,
    Gone,
    Join,
    Merge,
    Published,
    Report,
    Start,
    TakenOver,
    Tick,
    Welcome,
)
from skerry.core.policy import Policy
from skerry.core.syncer import SyncerCore
from skerry.drive.around import Line
from skerry.drive.syncer import SyncerDriver
from support.layouts import tiny_layout

POLICY = Policy(fragments=1, interval=4, overlap=2, grace=0.0, steps=1000)


class Wire(Line):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []
        self.ended = ""

    @property
    def closed(self) -> bool:
        return bool(self.ended)

    def tell(self, message: Any) -> None:
        self.told.append(message)

    def send_value(self, delivery: Delivery) -> bool:
        self.told.append(delivery)
        return True

    def close(self, reason: str) -> None:
        self.ended = reason

    def kinds(self) -> list[str]:
        return [type(message).__name__ for message in self.told]


class Scene:
    """A driver, its plane and its log at once: `done` is what was asked of the plane, `heard` what the log took down."""

    def __init__(self, committed: int = 0) -> None:
        self.committed, self.heard_all, self.done = committed, [], []
        self.now = 0.0
        self.core = SyncerCore(POLICY, tiny_layout(POLICY))
        self.driver = SyncerDriver(self.core, self, clock=lambda: self.now, timer=lambda due: None, log=self)  # type: ignore[arg-type]

    # the log

    def heard(self, now: float, event: Any) -> int:
        self.heard_all.append(event)
        return len(self.heard_all)

    def decided(self, now: float, action: Any) -> None: ...

    def commit(self, position: int | None = None) -> None:
        self.committed = len(self.heard_all) if position is None else position
        self.driver.committed()

    # the plane

    def __getattr__(self, name: str) -> Any:
        if name in ("add", "drop", "publish", "cancel", "adopt"):
            return lambda *args: self.done.append((name, *args))
        raise AttributeError(name)

    def screen(self, name: Any, then: Any) -> None:
        then("", ())

    def close(self, close: Close, then: Any) -> None:
        self.done.append(("close", close))
        self.made = then

    def keep(self, close: Close, position: int, then: Any) -> None:
        self.done.append(("keep", close.version, position))
        self.kept = then

    # the learners

    def enter(self, learner: int) -> Wire:
        wire = Wire()
        self.driver.join(wire, Join(learner=learner, layout=self.core.layout.hash))
        self.commit()
        self.driver.hear(wire, TakenOver(learner=learner, generation=1, fragment=0, version=0, clock=0, settled=Count(),
                                         count=Count()))  # fmt: skip
        return wire

    def asks(self) -> str:
        return [what[0] for what in self.done]


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.driver.feed(Start())
    return scene


def report(steps: int, learner: int = 0) -> Report:
    return Report(learner=learner, generation=1, clock=steps, count=Count(steps, 10 * steps, steps))


def hand_over(step: int) -> Contribution:
    return Contribution(learner=0, generation=1, fragment=0, step=step, base=0, since=Count(), until=Count(4, 40, 4))


def test_a_welcome_waits_for_its_join(scene: Scene) -> None:
    wire = Wire()
    scene.driver.join(wire, Join(learner=3, layout=scene.core.layout.hash))
    assert wire.told == [] and scene.driver.lines == {}
    assert not scene.driver.idle
    scene.commit()
    assert wire.kinds()[0] == "Welcome" and scene.driver.lines == {3: wire} and scene.driver.idle


def test_whose_line_ends_before_its_welcome_is_gone(scene: Scene) -> None:
    wire = Wire()
    scene.driver.join(wire, Join(learner=3, layout=scene.core.layout.hash))
    wire.ended = "broken"
    scene.driver.lost(wire)
    scene.commit()
    scene.commit()
    assert Gone(learner=3, generation=1) in scene.heard_all
    assert not scene.core.members.by_id[3].linked and scene.driver.lines == {} and wire.told == []


def test_a_newer_line_that_ends_before_its_welcome_takes_the_older_one_along(scene: Scene) -> None:
    old, new = scene.enter(0), Wire()
    scene.commit()
    scene.driver.join(new, Join(learner=0, generation=1, layout=scene.core.layout.hash, bases=(0,), settled=(Count(),)))
    new.ended = "broken"
    scene.driver.lost(new)
    scene.commit()
    scene.driver.lost(old)
    assert old.ended and scene.driver.lines == {} and not scene.core.members.by_id[0].linked


def back_again() -> Join:
    return Join(learner=0, generation=1, layout=tiny_layout(POLICY).hash, bases=(0,), settled=(Count(),), epoch=1)


def test_who_is_back_before_its_old_line_ends_is_not_gone(scene: Scene) -> None:
    old, new = scene.enter(0), Wire()
    scene.commit()
    scene.driver.join(new, back_again())
    old.ended = "broken"
    scene.driver.lost(old)
    scene.commit()
    assert scene.core.members.by_id[0].linked and scene.driver.lines == {0: new}
    assert not any(type(event) is Gone for event in scene.heard_all)


def test_who_is_back_in_a_pause_before_its_old_line_ends_is_not_gone(scene: Scene) -> None:
    old, new = scene.enter(0), Wire()
    scene.commit()
    scene.driver.pause()
    scene.driver.join(new, back_again())
    old.ended = "broken"
    scene.driver.lost(old)
    scene.driver.resume()
    scene.commit()
    assert scene.core.members.by_id[0].linked and scene.driver.lines == {0: new}


def test_bodies_are_added_ahead_and_a_version_is_kept_after_its_close_is_committed(scene: Scene) -> None:
    wire = scene.enter(0)
    scene.driver.hear(wire, report(4))
    assert "Ask" not in wire.kinds()
    scene.commit()
    assert wire.kinds()[-1] == "Ask"
    scene.driver.contributed(wire, hand_over(4))
    assert scene.asks() == ["add", "close"], "arithmetic goes ahead"
    closed_at = len(scene.heard_all)
    scene.made("")
    assert scene.asks() == ["add", "close"], "a version was kept whose close may be forgotten"
    scene.commit()
    assert scene.done[-1] == ("keep", 1, closed_at)
    scene.kept()
    assert scene.heard_all[-1] == Published(fragment=0, version=1) and scene.core.versions == [1]
    assert "publish" not in scene.asks() and wire.kinds()[-1] == "Ask", "a value left before it was published for good"
    scene.commit()
    assert scene.asks()[-1] == "publish" and wire.kinds()[-1] == "Delivery"


def test_what_is_committed_leaves_in_order_and_the_rest_waits(scene: Scene) -> None:
    first, second = scene.enter(0), scene.enter(1)
    scene.commit()
    scene.driver.hear(first, report(4))
    asked = len(scene.heard_all)
    scene.driver.hear(second, report(5, learner=1))
    scene.driver.join(Wire(), Join(layout=scene.core.layout.hash))
    scene.commit(asked)
    assert [type(m) for m in first.told if type(m) in (Ask, Welcome)] == [Welcome, Ask]
    assert not scene.driver.idle
    scene.commit()
    assert scene.driver.idle


def test_a_paused_core_hears_everything_later_and_of_a_learner_s_reports_the_last(scene: Scene) -> None:
    wire = scene.enter(0)
    scene.commit()
    before = len(scene.heard_all)
    scene.driver.pause()
    for steps in range(1, 5000):
        scene.driver.hear(wire, report(steps))
    scene.driver.feed(Tick())
    assert len(scene.heard_all) == before and scene.core.step == 0
    scene.driver.resume()
    scene.commit()
    assert [event for event in scene.heard_all[before:] if type(event) is Report] == [report(4999)]
    assert scene.core.step == 4999 and wire.kinds()[-1] == "Ask"


def test_after_stop_nothing_leaves(scene: Scene) -> None:
    wire = scene.enter(0)
    scene.commit()
    scene.driver.hear(wire, report(4))
    scene.driver.stop()
    scene.commit()
    assert "Ask" not in wire.kinds()


def test_a_failed_version_is_told_at_once(scene: Scene) -> None:
    wire = scene.enter(0)
    scene.driver.hear(wire, report(4))
    scene.driver.contributed(wire, hand_over(4))
    scene.made("not finite")
    scene.commit()
    assert scene.core.versions == [0] and wire.kinds()[-1] == "Cancel" and any(what[0] == "cancel" for what in scene.done)
    assert not any(type(what[-1]) is Merge and what[0] == "keep" for what in scene.done)
