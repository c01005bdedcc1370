"""The fault script: its grammar, its round trip, and what it says about pieces it cannot read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.config.amounts import seconds
from skerry.errors import ConfigError
from skerry.world.faults import SYNCER, Fault, FaultScript

EVERY = "kill:2.trainer@30s stop:1@45s+20s slow:3x0.5@10s join:4@60s leave:0@90s kill:3.agent@80s kill:1@2m+1m"


def test_sorted_by_time_and_round_trips():
    script = FaultScript.parse(EVERY)
    assert [fault.at for fault in script] == [10, 30, 45, 60, 80, 90, 120]
    assert FaultScript.parse(str(script)) == script
    assert str(FaultScript.parse("kill:1@2m,kill:0@0.5h")) == "kill:1@120s kill:0@1800s"
    assert not FaultScript.parse("  ") and str(FaultScript()) == ""


def test_fields():
    stop, slow, kill, at_once = FaultScript.parse("stop:1.agent@45s+20s slow:3x0.25@50+1m kill:2.trainer@1m+2m kill:2@2m")
    assert stop == Fault(kind="stop", learner=1, part="agent", at=45, duration=20)
    assert (slow.target, slow.factor, slow.ends) == ("3", 0.25, 110)
    assert (kill.duration, kill.ends, str(kill)) == (120, 180, "kill:2.trainer@60s+120s")
    assert (at_once.duration, str(at_once)) == (0, "kill:2@120s")


@pytest.mark.parametrize(
    ("piece", "says"),
    [
        ("kill", "KIND:LEARNER"),
        ("kill:x@3s", "KIND:LEARNER"),
        ("explode:1@3s", "none of kill, stop, slow, join, leave, cut, halfopen, full"),
        ("kill:sincer@3s", "KIND:syncer"),
        ("join:syncer@3s", "join strikes learners, not the syncer"),
        ("cut:syncer@3s", "cut strikes learners, not the syncer"),
        ("kill:syncer.agent@3s", "kill strikes syncer"),
        ("stop:syncer@3s", "needs how long: stop:syncer@3s+20s"),
        ("halfopen:1@3s", "needs how long"),
        ("full:syncer@3s", "needs how long"),
        ("cut:1.agent@3s", "cut strikes 1"),
        ("kill:1.gpu@3s", "none of trainer, agent"),
        ("leave:1.agent@3s", "leave strikes 1"),
        ("stop:1@3s", "needs how long"),
        ("leave:1@3s+2s", "leave takes no duration"),
        ("kill:1.agent@3s+2s", "kill of the agent alone takes no duration"),
        ("kill:1@1e999s", "finite"),
        ("kill:1@3s+1e308d", "finite"),
        ("slow:1@3s", "needs a factor"),
        ("slow:1x2@3s", "needs a factor"),
        ("kill:1x0.5@3s", "takes no factor"),
        ("kill:1@3w", "none of ms, s, m, min, h, d, y"),
        ("kill:1@1.2.3s", "no number"),
    ],
)
def test_a_bad_piece_is_named(piece, says):
    with pytest.raises(ConfigError) as error:
        FaultScript.parse(f"kill:0@1s {piece}")
    assert repr(piece)[1:5] in str(error.value) and says in str(error.value)
    assert "write faults like" in str(error.value)


def test_the_syncer_and_links():
    script = FaultScript.parse("kill:syncer@30s stop:syncer@40s+20s cut:2@20s+5s halfopen:1@20s+30s full:syncer@1s+2s cut:0@9s")
    assert FaultScript.parse(str(script)) == script
    kill = next(fault for fault in script if fault.kind == "kill")
    assert (kill.learner, kill.target, str(kill)) == (SYNCER, "syncer", "kill:syncer@30s")
    assert script.linked == {0, 1, 2}
    script.check_learners(3)
    with pytest.raises(ConfigError, match="no learner 2 by then"):
        script.check_learners(2)


def test_a_fault_needs_a_learner_that_is_there():
    FaultScript.parse("join:4@10s kill:4@20s").check_learners(4)
    with pytest.raises(ConfigError, match="no learner 4 by then"):
        FaultScript.parse("kill:4@5s join:4@10s").check_learners(4)
    with pytest.raises(ConfigError, match="'join:0@3s': there is a learner 0 by then"):
        FaultScript.parse("join:0@3s").check_learners(4)
    with pytest.raises(ConfigError, match="'kill:0@5s': there is no learner 0 by then"):
        FaultScript.parse("leave:0@3s kill:0@5s").check_learners(4)
    with pytest.raises(ConfigError, match="'join:4@4s': there is a learner 4 by then"):
        FaultScript.parse("join:4@3s kill:4.agent@3.5s join:4@4s").check_learners(4)


def test_times_have_the_units_of_all_commands():
    assert str(FaultScript.parse("kill:1@2m kill:2@2min kill:3@500ms")) == "kill:3@0.5s kill:1@120s kill:2@120s"
    assert seconds("--stay", "2m") == seconds("--stay", "2min") == 120


times = st.floats(0, 1e20, allow_nan=False)
parts = st.sampled_from(["", "trainer", "agent"])
faults = st.one_of(
    st.builds(Fault, kind=st.just("kill"), learner=st.integers(0, 10**6), part=parts, at=times),
    st.builds(Fault, kind=st.just("kill"), learner=st.integers(0, 99), part=st.sampled_from(["", "trainer"]), at=times,
              duration=times),
    st.builds(Fault, kind=st.just("stop"), learner=st.integers(0, 99), at=times, duration=times.filter(bool)),
    st.builds(Fault, kind=st.sampled_from(["stop", "full"]), learner=st.just(SYNCER), at=times, duration=times.filter(bool)),
    st.builds(Fault, kind=st.sampled_from(["stop", "halfopen", "full"]), learner=st.integers(0, 9), at=times,
              duration=times.filter(bool)),
    st.builds(Fault, kind=st.just("cut"), learner=st.integers(0, 9), at=times, duration=times),
    st.builds(Fault, kind=st.just("kill"), learner=st.integers(SYNCER, 9), at=times, duration=times),
    st.builds(Fault, kind=st.just("slow"), learner=st.integers(0, 99), at=times, duration=times,
              factor=st.floats(0, 1, exclude_min=True, exclude_max=True)),
)  # fmt: skip


@given(st.lists(faults))
def test_any_script_round_trips(pieces):
    script = FaultScript(tuple(pieces))
    assert FaultScript.parse(str(script)) == script
