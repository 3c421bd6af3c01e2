"""Whether what the registry stores would be believed by those who ask it: every member's chain, link by link."""

from hanse import trust, wire
from hanse.errors import HanseError
from registry.storage.base import Storage


def chain_problems(storage: Storage, now: int) -> list[str]:
    """In words, one a member at most."""
    problems = []
    for member in storage.membership()[1]:
        try:
            chain = [wire.decode_envelope(each.envelope) for each in storage.organizations(member.prefix, 0)]
            newest = trust.chain(chain, pinned=None, now=now)
        except HanseError as error:
            problems.append(f"the history of {member.prefix} is broken: {error}")
            continue
        if newest is None or newest.record.version != member.organization_version:
            problems.append(f"the newest record of {member.prefix} is missing: restore the database from your backup")
    return problems
