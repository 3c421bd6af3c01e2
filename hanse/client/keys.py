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
