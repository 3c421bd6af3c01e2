"""The SDK in a fresh process; prints the seconds it took, without the interpreter's start and imports.

``fetch HOME ID TO`` · ``read HOME ID`` (all of it into memory) · ``drain HOME ID`` (read and thrown away)
"""

import sys
import time

from hanse import Client


def fetch(home: str, identifier: str, to: str) -> None:
    with Client(home) as client:
        client.fetch(identifier, to)


def read(home: str, identifier: str) -> None:
    with Client(home) as client, client.open(identifier) as element:
        content = element.read()
        assert content


def drain(home: str, identifier: str) -> None:
    with Client(home) as client, client.open(identifier) as element:
        while element.read(8 << 20):
            pass


if __name__ == "__main__":
    command = {"fetch": fetch, "read": read, "drain": drain}[sys.argv[1]]
    began = time.perf_counter()
    command(*sys.argv[2:])
    print(time.perf_counter() - began)
