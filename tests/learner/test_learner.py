"""A learner with its real agent: what goes up, what comes down, and that the loop is its own master."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import torch
import trustme
from torch import nn

import skerry
from skerry.core.messages import (
    Abstain,
    Ask,
    BudgetReached,
    Cancel,
    Contribution,
    Join,
    Leave,
    Received,
    Report,
    RunOver,
    TakenOver,
    Verdict,
    Welcome,
)
from skerry.core.policy import Policy
from skerry.errors import RefusedError
from skerry.fabric.tls import TlsConfig

pytestmark = pytest.mark.processes
POLICY = Policy(fragments=2, interval=2, overlap=1, steps=1000, codec_up="fp32")


def mixed_model() -> nn.Module:
    """Every dtype, in fragments of several."""
    torch.manual_seed(3)
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    return nn.ParameterDict({f"p{i}": nn.Parameter(torch.randn(40 + i, 3).to(d)) for i, d in enumerate(dtypes)})


def asked(island, fragment: int, step: int = 2) -> tuple[Contribution, np.ndarray]:
    island.syncer.send(Ask(fragment=fragment, step=step, progress=0.1))
    message, body = island.until(Contribution, lambda m: m.step == step)
    return message, np.frombuffer(body, np.float32)


def rounded(island, fragment: int, value: np.ndarray) -> np.ndarray:
    """As the parameters' dtypes can hold it."""
    named, parts, at = dict(island.model.named_parameters()), [], 0
    for piece in island.syncer.layout.fragments[fragment]:
        dtype = named[island.syncer.layout.tensors[piece.tensor].name].dtype
        parts.append(torch.from_numpy(value[at : at + piece.size]).to(dtype).float())
        at += piece.size
    return torch.cat(parts).numpy()


def twin_change(island, fragment: int, steps: int, base: np.ndarray | None = None) -> np.ndarray:
    """What so many steps do to the fragment. `base`: where they begin; none: at the run's first model."""
    base = island.syncer.values[fragment] if base is None else base
    twin = base.copy()
    for _ in range(steps):
        twin = rounded(island, fragment, twin - np.float32(0.125))
    return base - twin


def test_begin(island) -> None:
    model = mixed_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    it = island(model, POLICY, learner=7, expect=7, description={"depth": 2})
    assert it.join == Join(learner=7, generation=0, layout=it.syncer.layout.hash, bases=(-1, -1), settled=it.join.settled,
                           holds=(-1, -1))  # fmt: skip
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    learner = it.learner
    assert (learner.id, learner.generation, learner.first_step, learner.step, learner.done) == (7, 1, 0, 0, False)
    assert learner.progress == 0.25 and learner.policy == POLICY
    assert it.syncer.about["config"] == {"depth": 2} and it.syncer.about["aliases"] == {}
    it.step(2)
    it.until(Report, lambda m: m.count.steps >= 2 and m.count.tokens == 3 * m.count.steps)
    assert learner.step >= 2


def test_contribution_is_base_less_parameters_exactly(island) -> None:
    """Whatever the dtypes: a twin that makes the same steps from the rounded value differs from it by the contribution."""
    it = island(mixed_model(), POLICY.replace(on_excluded="overwrite"))
    value = np.linspace(-1, 1, it.syncer.layout.sizes[1], dtype=np.float32)
    it.syncer.deliver(1, 1, value, step=1)
    moved, _ = it.until(TakenOver, lambda m: m.version == 1)
    message, body = asked(it, 1)
    assert message.base == 1 and message.since == moved.settled and message.until.steps > message.since.steps
    steps = message.until.steps - message.since.steps
    assert np.array_equal(body, twin_change(it, 1, steps, rounded(it, 1, value)))


@pytest.mark.parametrize(("rule", "included"), [("overwrite", True), ("rebase", True), ("blend", True), ("carry", False),
                                                ("overwrite", False)])  # fmt: skip
def test_take_over_rules(island, rule: str, included: bool) -> None:
    """What the parameters are just after a take-over, from what they were just before it."""
    kind = "on_included" if included else "on_excluded"
    torch.manual_seed(5)
    model = nn.ParameterDict({f"p{i}": nn.Parameter(torch.randn(31, 3)) for i in range(2)})
    it = island(model, POLICY.replace(**{kind: rule}, blend=0.25))
    theta_0 = it.fragment(0)
    it.step(4)
    message, body = asked(it, 0)
    assert np.allclose(body, theta_0 - (theta_0 - 0.125 * message.until.steps), atol=1e-5)
    value = np.full(theta_0.size, 9.0, np.float32)
    if not included:
        it.syncer.send(Verdict(learner=0, generation=1, fragment=0, step=2, verdict="late"))
    it.syncer.deliver(0, 1, value, step=2, merged=message.until.tokens if included else 0)
    moved, _ = it.until(TakenOver, lambda m: m.version == 1)
    at = moved.count.steps
    since = it.learner.step - at  # steps made after the take-over
    now = it.fragment(0) + 0.125 * since
    expected = {
        "overwrite": value,
        "rebase": value - 0.125 * (at - message.until.steps),
        "blend": 0.25 * value + 0.75 * (theta_0 - 0.125 * at),
        "carry": value - 0.125 * at,
    }[rule]
    assert np.allclose(now, expected, atol=1e-4)
    settled = {"rebase": message.until, "carry": message.since}.get(rule, moved.count)
    assert moved.settled == settled
    # and the next contribution is measured from the new value
    again, body = asked(it, 0, step=4)
    theta = now - 0.125 * (again.until.steps - at)
    assert again.base == 1 and again.since == settled
    assert np.allclose(body, value - theta, atol=1e-4)


def test_short_codecs(island) -> None:
    it = island(mixed_model(), POLICY.replace(codec_up="bf16"))
    it.step(3)
    it.syncer.send(Ask(fragment=0, step=2, progress=0.1))
    message, body = it.until(Contribution)
    up = torch.frombuffer(bytearray(body), dtype=torch.bfloat16).float()
    assert up.numel() == it.syncer.layout.sizes[0] and torch.isfinite(up).all()
    assert abs(float(up.mean()) - 0.125 * message.until.steps) < 0.05


def test_nothing_and_cancel(island) -> None:
    it = island(mixed_model(), POLICY)
    first, _ = asked(it, 0)
    it.syncer.send(Ask(fragment=0, step=4, progress=0.1))
    nothing, _ = it.until(Abstain)
    assert (nothing.fragment, nothing.step) == (0, 4)  # an earlier hand-over is open
    it.syncer.send(Cancel(fragment=0, step=2))
    second, _ = asked(it, 0, step=6)
    assert second.since == first.since and second.until.tokens > first.until.tokens  # nothing of it was lost


def test_who_was_too_late_has_the_answer_ready(island) -> None:
    """The third question is answered though the trainer stands still."""
    it = island(mixed_model(), POLICY.replace(interval=200_000, overlap=100_000))
    at = []
    for step in (2, 4):
        message, _ = asked(it, 0, step)
        at.append(message.until.steps)
        it.syncer.send(Verdict(learner=0, generation=1, fragment=0, step=step, verdict="late"))
    expected = 2 * at[1] + 20  # by then at the latest, however many steps there were between the questions
    for steps in (expected, expected + 20):  # past the first report it is ordered, past the second it is done
        it.train_until(lambda steps=steps: it.syncer.heard(Report, lambda m: m.count.steps >= steps) is not None)
    it.syncer.send(Ask(fragment=0, step=6, progress=0.1))
    third, body = it.syncer.wait_for(Contribution)
    assert (third.step, third.base, third.since) == (6, 0, message.since) and at[1] < third.until.steps < it.learner.step
    assert np.allclose(np.frombuffer(body, np.float32), twin_change(it, 0, third.until.steps), atol=1e-6)


def test_a_broken_link_loses_nothing(island) -> None:
    it = island(mixed_model(), POLICY)
    message, body = asked(it, 0)
    it.syncer.drop_link()
    join, _ = it.until(Join)
    assert join.generation == 1 and join.count.tokens > 0 and join.bases == (0, 0)
    it.syncer.send(Welcome(learner=0, generation=1, clock=0, first_step=0, progress=0.3))
    again, body_again = it.until(Contribution)
    assert again == message and body_again == body.tobytes()


def test_new_generation_takes_everything_over(island) -> None:
    it = island(mixed_model(), POLICY)
    asked(it, 0)
    it.syncer.drop_link()
    join, _ = it.until(Join)
    first_step = 11 + join.count.steps  # 11 before this process, and what it has told of
    it.syncer.send(Welcome(learner=0, generation=2, clock=40, first_step=first_step, progress=0.3))
    for fragment, size in enumerate(it.syncer.layout.sizes):
        it.syncer.deliver(fragment, 5, np.full(size, 2.0, np.float32))
    moved = [it.until(TakenOver, lambda m: m.generation == 2)[0] for _ in range(2)]
    assert {m.fragment for m in moved} == {0, 1} and all(m.version == 5 for m in moved)
    assert moved[1].clock >= 40 and moved[1].count.steps <= it.learner.step - 11 - join.count.steps
    assert (it.learner.generation, it.learner.first_step) == (2, 11)
    message, _ = asked(it, 1)
    assert message.generation == 2 and message.base == 5


def test_the_same_version_for_a_new_generation(island) -> None:
    """Delivered again while the first is on its way into the parameters: the new generation gets it all the same."""
    it = island(mixed_model(), POLICY)
    value = np.full(it.syncer.layout.sizes[0], 3.0, np.float32)
    it.syncer.deliver(0, 5, value)  # ordered, but there is no step to take it over
    it.syncer.wait_for(Received, lambda m: m.version == 5)
    it.syncer.drop_link()
    it.syncer.wait_for(Join)
    it.syncer.send(Welcome(learner=0, generation=2, clock=0, first_step=0, progress=0.3))
    for fragment, size in enumerate(it.syncer.layout.sizes):
        it.syncer.deliver(fragment, 5, np.full(size, 2.0, np.float32))
    moved = [it.until(TakenOver, lambda m: m.generation == 2)[0] for _ in range(2)]
    assert {m.fragment for m in moved} == {0, 1} and all(m.version == 5 for m in moved)
    message, body = asked(it, 0)
    steps = message.until.steps - message.since.steps
    assert np.allclose(np.frombuffer(body, np.float32), 0.125 * steps, atol=1e-2 * steps)


def test_another_run_at_the_same_address(island, scripted, capfd) -> None:
    """The syncer came back without its snapshot: training goes on, and the learner joins when its own run is back."""
    it = island(mixed_model(), POLICY)
    port = it.syncer.listener.address.port
    it.syncer.stop_listening()
    other = scripted(POLICY, port=port, run="run-2")
    steps = it.learner.step
    it.train_until(lambda: other.heard(str, lambda code: code == "run") is not None)
    other.stop_listening()
    it.syncer = scripted(POLICY, port=port)
    join, _ = it.until(Join)
    assert join.generation == 1 and join.count.steps > steps
    said = capfd.readouterr().err
    assert "the link with the syncer" in said and said.count("this is run run-2, not run-1") == 1, "a changed reason, once"


def test_tls(scripted, token_file, tmp_path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    files = {name: str(tmp_path / name) for name in ("cert", "key", "ca", "other")}
    certificate.cert_chain_pems[0].write_to_path(files["cert"])
    certificate.private_key_pem.write_to_path(files["key"])
    authority.cert_pem.write_to_path(files["ca"])
    stranger.cert_pem.write_to_path(files["other"])
    syncer = scripted(POLICY, tls=TlsConfig(cert=files["cert"], key=files["key"]))
    model = mixed_model()

    def learner(ca: str) -> skerry.Learner:
        return skerry.Learner(model, torch.optim.SGD(model.parameters()), syncer=syncer.address, token_file=token_file,
                              tls=TlsConfig(ca=ca))  # fmt: skip

    with pytest.raises(RefusedError, match="certificate") as caught:
        learner(files["other"]).__enter__()
    assert caught.value.code == "certificate"
    with ThreadPoolExecutor(1) as other:
        begun = other.submit(syncer.begin)
        with learner(files["ca"]) as joined:
            assert joined.id == begun.result().learner + 1 == 0


def test_many_deliveries_are_backpressure_and_all_received(island) -> None:
    it = island(mixed_model(), POLICY)
    with ThreadPoolExecutor(1) as other:
        done = other.submit(lambda: [it.syncer.deliver(v % 2, v, np.full(it.syncer.layout.sizes[v % 2], v, np.float32), step=v)
                                     for v in range(1, 41)])  # fmt: skip
        it.until(TakenOver, lambda m: m.version == 40)
        done.result()


def test_vitals(island) -> None:
    it = island(mixed_model(), POLICY)
    it.train_until(lambda: it.syncer.vitals and it.syncer.vitals[-1].median_step_us > 0 and it.syncer.vitals[-1].hook_us > 0)
    vitals = it.syncer.vitals[-1]
    assert (vitals.learner, vitals.generation, vitals.loss) == (0, 1, 2.5)
    assert (vitals.pid_trainer, vitals.pid_agent) == (os.getpid(), it.agent.pid)
    assert 0 < vitals.hook_us < vitals.span_us and 0 < vitals.max_hook_us <= vitals.hook_us


def test_the_end(island, capfd) -> None:
    it = island(mixed_model(), POLICY)
    it.step(3)
    it.syncer.send(BudgetReached())
    it.train_until(lambda: it.learner.done)
    agent = it.agent
    steps = it.learner.step
    with ThreadPoolExecutor(1) as other:

        def last_round() -> list[Contribution]:
            taken = []
            for fragment in range(2):
                it.syncer.send(Ask(fragment=fragment, step=99, progress=1.0, final=True))
                taken.append(it.syncer.wait_for(Contribution)[0])
            it.syncer.send(RunOver())
            return taken

        last = other.submit(last_round)
        it.learner.count(2)  # after the last step
        it.leave()
        assert [m.until.steps for m in last.result()] == [steps, steps]
        assert last.result()[0].until.tokens == 3 * steps + 2
    assert not agent.is_running() or agent.status() == psutil.STATUS_ZOMBIE
    assert it.learner.progress == 1.0
    assert "waiting for the run's last round" in capfd.readouterr().err


def test_end_without_finish(island) -> None:
    it = island(mixed_model(), POLICY)
    it.syncer.send(RunOver())
    it.train_until(lambda: it.learner.done)
    it.leave()


def test_an_error_in_the_block_is_a_leave(island) -> None:
    it = island(mixed_model(), POLICY)
    it.step(5)
    agent = it.agent
    it.leave(ValueError, ValueError("the user's"), None)
    leave, _ = it.syncer.wait_for(Leave)
    assert (leave.count.steps, leave.count.tokens) == (5, 15)
    assert not agent.is_running()


def test_leaving_early_is_a_leave(island) -> None:
    it = island(mixed_model(), POLICY)
    it.step(2)
    it.leave()
    assert it.syncer.wait_for(Leave)[0].count.steps == 2
    assert it.optimizer.step() is None  # no hook is left


def test_the_end_is_not_waited_for_without_a_syncer(island, capfd) -> None:
    it = island(mixed_model(), POLICY.replace(final_timeout=0.2))
    it.syncer.send(BudgetReached())
    it.train_until(lambda: it.learner.done)
    it.syncer.stop_listening()
    it.leave()
    assert "leaving without it" in capfd.readouterr().err


def test_several_optimizers_step_together(scripted, token_file) -> None:
    model = mixed_model()
    syncer = scripted(POLICY)
    optimizers = [torch.optim.SGD([p], lr=0.1) for p in model.parameters()]
    with ThreadPoolExecutor(1) as other:
        begun = other.submit(syncer.begin)
        with skerry.Learner(model, optimizers, syncer=syncer.address, token_file=token_file, tokens=lambda: 5) as learner:
            begun.result()
            for _ in range(2):
                for optimizer in optimizers:
                    optimizer.step()
            assert learner.step == 2
        assert syncer.wait_for(Leave)[0].count.tokens == 10


def test_the_agent_needs_no_torch() -> None:
    code = "import sys, skerry.learner.agent; assert not {'torch', 'safetensors', 'structlog'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_received_is_said(island) -> None:
    it = island(mixed_model(), POLICY)
    it.syncer.deliver(0, 3, it.fragment(0), step=1)
    assert it.until(Received, lambda m: m.version == 3)[0].fragment == 0
