"""Attendance: which members count, from when on and until when, and for whom it is waited. SyncerCore builds on it.

Who is silent, quarantined or without a link does not count, and no round waits for it; but that some are *awaited*:

- whose link broke, by the last round if that begins within final_timeout, or has begun;
- who was live when the syncer was restarted, likewise. If the quorum is "all", they are *missed* as well, for round_timeout
  (synchronous policies: sync_timeout): every round waits for them, and they count for the quorum, so that who is back first
  does not go on alone.
"""

from __future__ import annotations

from skerry.core.grace import Grace
from skerry.core.layout import Layout
from skerry.core.ledger import Ledger
from skerry.core.members import AWAY, LIVE, QUARANTINED, SILENT, Member, Members, Standing
from skerry.core.messages import Gone, Quarantined, Readmit, SyncerAction
from skerry.core.phase import ENDED, RUNNING, WAITING, Phase
from skerry.core.policy import ALL, Policy
from skerry.core.rounds import Rounds
from skerry.core.screening import Screening
from skerry.core.timers import Alarm, Subject, Timers


class Attendance:
    """What SyncerCore is made of, as far as it concerns who is there."""

    phase: Phase
    provider: int | None  # who was asked for the first model
    epochs: list[tuple[int, ...]]  # the versions that each start of the syncer began from

    def __init__(self, policy: Policy, layout: Layout) -> None:
        self.policy, self.layout = policy, layout
        self.phase, self.provider, self.epochs = WAITING, None, [()]
        self._out: list[SyncerAction] = []
        self.timers = Timers(self._matters)
        self.members = Members(policy.quorum)
        self.ledger = Ledger(layout.sizes)
        self.grace = Grace(policy.grace, policy.overlap)
        self.screening = Screening(policy, layout, self.members)
        self.rounds = Rounds(policy, self.members, self.ledger, self.grace, self.screening, self.timers, self._out)

    @property
    def epoch(self) -> int:
        """The number of the syncer's start, from 1 on."""
        return len(self.epochs)

    @property
    def _silence(self) -> float:
        return self.policy.sync_timeout if self.policy.synchronous else self.policy.silent_after

    # ------------------------------------------------------------------ standing

    def _stand(self, member: Member, standing: Standing) -> None:
        self.members.stand(member, standing)
        self.timers.unsure = True

    def _arrive(self, now: float, member: Member) -> None:
        """The member has a link and all fragments: it begins to count, unless it is quarantined."""
        if member.quarantined:
            self._stand(member, QUARANTINED)
            return
        if self.phase is RUNNING and not member.missed:
            self.members.wait_for(member, False)  # what was asked meanwhile it has not heard
        self._stand(member, LIVE)
        if member.awaited:
            self.rounds.regain(member)
            self.members.wait_for(member, False)
        member.watched += 1
        self.timers.at(now + self._silence, Subject.MEMBER, member.id, member.watched)

    def _die(self, now: float, member: Member, standing: Standing, *, returns: bool = False) -> None:
        """A live member ceases to count: no round waits for the dead."""
        self.rounds.lose(member, returns=returns)
        self.members.wait_for(member, returns)
        self._stand(member, standing)
        self.rounds.review_all(now)

    def _give_up(self, now: float, member: Member) -> None:
        """It was awaited, and is not any more."""
        self.rounds.lose(member)
        self.members.wait_for(member, False)
        self.rounds.review_all(now)

    def _sender(self, now: float, learner: int, generation: int) -> Member | None:
        """The member that speaks, if it is its present generation; it lives again if it was only silent."""
        member = self.members.by_id.get(learner)
        if member is None or member.account.generation != generation or member.standing is AWAY:
            return None
        member.heard = now
        if member.standing is SILENT:
            self._arrive(now, member)
        return member

    # ------------------------------------------------------------------ going

    def _gone(self, now: float, event: Gone) -> None:
        member = self.members.get(event.learner)
        if member is not None and member.generation == event.generation:
            self._depart(now, member, returns=member.live)

    def _depart(self, now: float, member: Member, *, returns: bool = False) -> None:
        """There is no link to it any more. `returns`: the last round waits for it all the same."""
        if self.provider == member.id:
            self.provider = None
        if not member.live:
            self._stand(member, AWAY)
            return
        self._die(now, member, AWAY, returns=returns)
        if returns:
            self.timers.at(now + self.policy.final_timeout, Subject.RETURN, member.id, member.live_seq)

    def _all_gone(self, now: float) -> None:
        """The syncer was restarted: who was live is awaited."""
        policy, missed = self.policy, self.phase is RUNNING and self.policy.quorum == ALL
        patience = policy.final_timeout if not missed else policy.sync_timeout if policy.synchronous else policy.round_timeout
        for member in self.members:
            lived = (member.live or member.awaited) and self.phase is not ENDED
            self._stand(member, AWAY)
            self.members.wait_for(member, lived, missed=lived and missed)
            if lived:
                self.timers.at(now + patience, Subject.RETURN, member.id, member.live_seq)

    # ------------------------------------------------------------------ quarantine

    def _quarantine(self, now: float, member: Member) -> None:
        """Too much of it was refused."""
        self._die(now, member, QUARANTINED)
        self._tell_quarantined(member)

    def _tell_quarantined(self, member: Member) -> None:
        self._out.append(Quarantined(learner=member.id, generation=member.generation, reason=member.quarantined))

    def _readmit(self, now: float, event: Readmit) -> None:
        member = self.members.get(event.learner)
        if member is None or not member.quarantined:
            return
        member.quarantined, member.refusals = "", 0
        if member.standing is QUARANTINED:
            self._arrive(now, member)
            self._tell_quarantined(member)

    # ------------------------------------------------------------------ time

    def _matters(self, alarm: Alarm) -> bool:
        if alarm.subject is Subject.ROUND:
            round_ = self.rounds.open.get(alarm.key)
            return round_ is not None and round_.seq == alarm.mark
        member = self.members.by_id[alarm.key]
        if alarm.subject is Subject.RETURN:
            return self.phase is RUNNING and member.awaited and member.live_seq == alarm.mark
        return member.standing is LIVE and member.watched == alarm.mark

    def _look_at(self, now: float, alarm: Alarm) -> None:
        """Its time has come."""
        if alarm.subject is Subject.ROUND:
            self.rounds.review(now, self.rounds.open[alarm.key])
            return
        member = self.members.by_id[alarm.key]
        if alarm.subject is Subject.RETURN:
            self._give_up(now, member)
        elif now >= (silent_at := member.heard + self._silence):
            self._die(now, member, SILENT)
        else:
            self.timers.at(silent_at, Subject.MEMBER, member.id, member.watched)
