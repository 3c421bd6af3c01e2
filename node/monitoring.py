"""The monitor in the daemon: looks every few seconds, says loudly what it found, and is in nobody's way.

It asks for nothing but the entries: the checkpoint comes with the membership, which the daemon refreshes anyway.
"""

import threading

import structlog

from hanse.errors import HanseError, Unreachable, VerificationFailed
from node.monitor import Monitor

log = structlog.get_logger("hanse.node.monitor")


class Monitoring:
    """``look`` is called again and again by one thread. It ends early when ``stop`` is set."""

    def __init__(self, monitor: Monitor, stop: threading.Event) -> None:
        self._monitor, self._stop = monitor, stop
        self._said = ""

    def look(self) -> None:
        try:
            # A long log is read at half speed: whoever is served meanwhile does not notice.
            look = self._monitor.look(ask=False, rest=self._stop.wait)
        except Unreachable:
            return  # the upkeep says so
        except HanseError as error:
            if str(error) != self._said:
                self._said = str(error)
                level = log.error if isinstance(error, VerificationFailed) else log.warning
                level("monitor.failed", error=self._said)
            return
        self._said = ""
        for each in look.found:
            log.error("monitor.found", kind=each.kind.value, entry=each.position, what=each.what, remedy=each.remedy)
