"""How a run goes on after its syncer died: what the log and the values have in common, and what neither may be without.

Rules: the log decides what happened. A value lies in the store before the log can say so (drive/syncer.py: keep, then
Published), so of each fragment the store holds the core's version, or the one that was closing. Anything else means that one of
the two has lost something.
"""

from __future__ import annotations

from collections.abc import Sequence

from skerry.core.messages import Published
from skerry.core.syncer import SyncerCore


class Disagreement(Exception):
    """Log and values are not of one past. Says in words what is wrong."""


def unheard(core: SyncerCore, stored: Sequence[int]) -> list[Published]:
    """The versions that lie in the store though the log does not say so. `stored`: of each fragment, the version that does.
    Raises Disagreement."""
    found = []
    for fragment, (known, version) in enumerate(zip(core.versions, stored, strict=True)):
        if version == known + 1 and fragment in core.rounds.closing:
            found.append(Published(fragment=fragment, version=version))
        elif version != known:
            raise Disagreement(f"the log knows version {known} of fragment {fragment}, the values hold version {version}")
    return found
