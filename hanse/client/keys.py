"""Papers against the keys that this home knows, and once more against the registry's newest: one may have changed.

request = believed(resolver, [acme], lambda records: verify_request(envelope, records[acme], now))
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from hanse.client.resolve import Resolver
from hanse.errors import BadSignature, Unreachable
from hanse.model.identifier import Prefix
from hanse.model.organization import OrganizationRecord

T = TypeVar("T")


def believed(
    resolver: Resolver, prefixes: Iterable[Prefix], check: Callable[[Mapping[Prefix, OrganizationRecord]], T]
) -> T:
    """What ``check`` gives. Raises what it raises, NotFound, Unreachable when a record is not known yet."""
    wanted = set(prefixes)
    known = {prefix: resolver.organization(prefix).record for prefix in wanted}
    try:
        return check(known)
    except BadSignature:
        try:
            fresh = {prefix: resolver.organization(prefix, fresh=True).record for prefix in wanted}
        except Unreachable:
            fresh = known
        if fresh == known:
            raise
        return check(fresh)


class Signer:
    """The same for many papers of one organization: its record is looked up once, as long as that will do."""

    def __init__(self, resolver: Resolver, prefix: Prefix) -> None:
        self._resolver, self._prefix = resolver, prefix
        self._record = resolver.organization(prefix).record

    def believed(self, check: Callable[[OrganizationRecord], T]) -> T:
        """Raises what ``believed`` does."""
        try:
            return check(self._record)
        except BadSignature:

            def again(records: Mapping[Prefix, OrganizationRecord]) -> T:
                self._record = records[self._prefix]
                return check(self._record)

            return believed(self._resolver, [self._prefix], again)
