"""Hanse: a federated data network node.

from hanse import Client

with Client() as league:
    with league.open("86.north-hospital/trial-7", "visits.csv") as visits:
        print(visits.readline())
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hanse.client.client import Client as Client

__all__ = ["Client", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Loaded when asked for: the generated code and the commands import this package too, and gRPC is slow to load.
    if name == "Client":
        from hanse.client.client import Client

        return Client
    raise AttributeError(f"module 'hanse' has no attribute {name!r}")
