"""Read by Python itself at its start, where tests set a wrong clock: a sleep that libfaketime leaves alone.

It takes Python's sleep, which is until a time of the monotonic clock, for one until a time of the wrong clock.
"""

import select
import time


def _sleep(seconds: float) -> None:
    select.select((), (), (), seconds)


time.sleep = _sleep
