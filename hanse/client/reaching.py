"""The registry at every address that a home was told of: those of its mirrors too, without asking anybody first.

What it is not: where addresses come from. They are in the membership, which hanse.client.resolve keeps.

    with reach(identity) as league:
        league.get_checkpoint()
"""

import contextlib
import time
from collections.abc import Callable

from hanse import wire
from hanse.client.identity import Identity
from hanse.client.league import League
from hanse.client.storage.known import FILE, Known
from hanse.errors import HanseError
from hanse.home import Home
from hanse.model.address import Address


def reach(identity: Identity, clock: Callable[[], float] = time.time) -> League:
    """For what has no resolver; to be closed."""
    league = League(identity, clock)
    league.learn(told(identity.home))
    return league


def told(home: Home) -> tuple[Address, ...]:
    """As the membership that was told last names them; none while it is not known."""
    # Whoever needs what is kept there says what is wrong with it.
    with contextlib.suppress(HanseError), contextlib.closing(Known.open(home / FILE)) as known:
        kept = known.membership()
        if kept is not None:
            return wire.decode_registries(kept.members)
    return ()
