"""A member with a key and evidence of its own, in a folder; no league, no daemon.

with Member.of(tmp_path).evidence() as evidence:
    evidence.change(lambda change: change.append(Kind.GRANT, b"payload"))
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hanse.evidence.evidence import FILE, Evidence
from hanse.evidence.storage.log import Kind
from hanse.home import Home
from hanse.model.identifier import Prefix
from hanse.model.organization import IdentityKey, OrganizationRecord
from hanse.signing import SigningKey


@dataclass
class Member:
    """As much of an Identity as evidence needs."""

    home: Home
    prefix: Prefix
    signing_key: SigningKey = field(default_factory=SigningKey.generate)
    previous_key: SigningKey | None = None

    @classmethod
    def of(cls, folder: Path, prefix: str = "86.north") -> "Member":
        home = folder / prefix
        home.mkdir(parents=True, exist_ok=True)
        return cls(Home(home), Prefix.parse(prefix))

    @property
    def acknowledged_key(self) -> SigningKey:
        return self.previous_key or self.signing_key

    @property
    def record(self) -> OrganizationRecord:
        keys = [IdentityKey(self.signing_key.public, 1)]
        if self.previous_key is not None:
            keys.append(IdentityKey(self.previous_key.public, 1, int(time.time())))
        return OrganizationRecord(self.prefix, 1, b"", "", "", tuple(keys), (), 1)

    @property
    def file(self) -> Path:
        return self.home / FILE

    def evidence(self, clock: Callable[[], float] = time.time) -> Evidence:
        return Evidence.open(lambda: self, clock)  # type: ignore[arg-type]


def append(evidence: Evidence, *payloads: bytes) -> list[int]:
    """One change with an entry for each; their positions."""
    return evidence.change(lambda change: [change.append(Kind.RECEIPT, each) for each in payloads])
