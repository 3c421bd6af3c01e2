"""Asking by the SDK in a fresh process: prints the median milliseconds from a request to the first byte.

``HOME COUNT ID ...``: COUNT times, each time a request that was never made before, one after the other, on a
connection that is kept; the grant is verified and both sides' papers are durable before the first byte is asked for.
"""

import statistics
import sys
import time

from hanse import Client

home, count, ids = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
WARM_UP = 3


def main() -> None:
    took = []
    with Client(home) as client:
        for number in range(count + WARM_UP):
            began = time.perf_counter()
            with client.open(ids[number % len(ids)], purpose=f"study {number}") as file:
                assert file.read(1)
                took.append(time.perf_counter() - began)
        assert len(client.grants()) == count + WARM_UP
    print(1000 * statistics.median(took[WARM_UP:]))


if __name__ == "__main__":
    main()
