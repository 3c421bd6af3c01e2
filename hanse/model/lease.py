"""Leases: copies that the consumer's node keeps under a duty to delete. Pure. SPEC.md section 19."""

from dataclasses import dataclass

from hanse.model.identifier import Identifier


@dataclass(frozen=True, slots=True)
class Lease:
    """``ends_at`` and ``made_at`` are Unix seconds, by this machine's clock; ``grant`` is a digest.

    ``name`` is that of its key and of its folder in the vault. ``complete``: all of it was fetched.
    """

    name: str
    grant: bytes
    id: Identifier
    version: int
    made_at: int
    ends_at: int
    complete: bool
