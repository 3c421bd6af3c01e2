"""Small fetches by the SDK in a fresh process: prints how many a second.

``HOME ID COUNT THREADS receipts|none``: COUNT times, opened, read and closed, by THREADS at once on kept connections.
"""

import itertools
import sys
import threading
import time

from hanse import Client

home, identifier, count, threads, receipts = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]


def main() -> None:
    with Client(home, receipts=receipts == "receipts") as client:

        def fetch() -> None:
            with client.open(identifier) as file:
                assert file.read()

        def work() -> None:
            while next(numbers) < count:
                fetch()

        for _ in range(2 * threads):  # connections, caches
            fetch()
        numbers = itertools.count()
        workers = [threading.Thread(target=work) for _ in range(threads)]
        began = time.perf_counter()
        for each in workers:
            each.start()
        for each in workers:
            each.join()
        print(count / (time.perf_counter() - began))


if __name__ == "__main__":
    main()
