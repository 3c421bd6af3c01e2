"""The same questions, asked of one node's policies: what is decided, as a digest. Run as a process of its own.

python -m tests.deciding SEED COUNT     # prints the digest, and how many were allowed
"""

import hashlib
import random
import sys
from collections.abc import Iterator
from dataclasses import replace

from hanse.model.identifier import Prefix
from hanse.model.papers import Grant
from hanse.model.record import AccessMode
from hanse.model.terms import Conditions, Duty, Operation, Party, Permission, Terms
from hanse.model.terms_json import format_terms, parse_terms
from hanse.wire_papers import decode_grant, encode_grant
from node.own_policies import parse
from node.policy import Asked, Caller, Policies, Usage
from tests.conditions import IDS, KEYS, NORTH, NOW, PEERS, PURPOSES

OWN = """
forbid (principal == Hanse::Organization::"86.east", action, resource) when { context.second < 40000 };
forbid (principal, action == Hanse::Action::"fetch", resource) when { context.purposes.contains("commercial-purpose") };
"""


def random_conditions(draw: random.Random) -> Conditions:
    begins, ends = draw.choice([None, NOW - 2, NOW]), draw.choice([None, NOW + 1, NOW + 3])
    return Conditions(
        operations=draw.choice([(Operation.DESCRIBE, Operation.FETCH), (Operation.FETCH,), (Operation.DESCRIBE,)]),
        purposes=tuple(draw.sample(PURPOSES, draw.choice([0, 0, 1, 2]))),
        valid_from=begins,
        valid_until=ends,
        max_fetches=draw.choice([None, None, 1, 3]),
        max_bytes=draw.choice([None, None, 2]),
        duties=draw.choice([(), (), (Duty.parse("delete-after=1d"),)]),
        pass_on=draw.random() < 0.6,
    )


def random_terms(draw: random.Random) -> Terms:
    def permission() -> Permission:
        named = [Party(draw.choice(PEERS), draw.choice([None, *KEYS])) for _ in range(draw.randrange(3))]
        conditions = Conditions() if draw.random() < 0.5 else random_conditions(draw)
        return Permission(tuple(named), conditions, draw.random() < 0.8)

    mode = draw.choice([AccessMode.ON_REQUEST, AccessMode.ON_REQUEST, AccessMode.OPEN, AccessMode.COMPUTE_ONLY])
    found = [permission() for _ in range(draw.randrange(4))]
    if mode is AccessMode.OPEN:
        found.append(Permission())
    if mode is AccessMode.COMPUTE_ONLY:
        described = (Operation.DESCRIBE,)
        found = [replace(each, conditions=replace(each.conditions, operations=described)) for each in found]
    return Terms(mode, tuple(found))


def random_chain(draw: random.Random, caller: Prefix) -> tuple[Grant, ...]:
    """Of one to three grants; mostly, each is within the one before."""
    chain: list[Grant] = []
    issuer, length = NORTH, draw.choice([1, 1, 2, 3])
    for number in range(length):
        to = caller if number == length - 1 else draw.choice(PEERS)
        conditions = random_conditions(draw)
        if chain and draw.random() < 0.7:
            conditions = replace(chain[-1].conditions, pass_on=chain[-1].conditions.pass_on and draw.random() < 0.7)
        if number < length - 1 and draw.random() < 0.9:
            conditions = replace(conditions, pass_on=True)
        ids = IDS if draw.random() < 0.8 else IDS[:1]
        key = draw.choice([None, None, *KEYS])
        chain.append(Grant(draw.randbytes(16), issuer, to, key, ids, conditions, b"", b"", NOW))
        issuer = to
    return tuple(chain)


def questions(seed: int, count: int) -> Iterator[tuple[Asked, Terms, bool]]:
    """(question, terms, unlisted), as two nodes would have them: from their storage and from the wire."""
    draw = random.Random(seed)
    offered = [parse_terms(format_terms(random_terms(draw))) for _ in range(40)]
    chains = [(caller, random_chain(draw, caller)) for caller in PEERS for _ in range(30)]
    for _ in range(count):
        caller, chain = draw.choice(chains)
        chain = tuple(decode_grant(encode_grant(each)) for each in chain) if draw.random() < 0.7 else ()
        usage = tuple(Usage(draw.randrange(4), draw.randrange(4)) for _ in chain)
        asked = Asked(
            Caller(NORTH if draw.random() < 0.02 else caller if draw.random() < 0.95 else draw.choice(PEERS),
                   draw.choice(KEYS)),
            draw.choice(list(Operation)),
            draw.choice(IDS),
            NOW + draw.randrange(-3, 4),
            chain[-1] if chain else None,
            chain,
            usage if draw.random() < 0.8 else (),
            tuple(hashlib.sha256(each.nonce).digest() for each in chain) if draw.random() < 0.9 else (),
            draw.random() < 0.2,
        )  # fmt: skip
        yield asked, draw.choice(offered), draw.random() < 0.3


def decided(seed: int, count: int) -> tuple[str, int]:
    """A digest over all decisions, and how many were favourable."""
    policies, digest, allowed = Policies(parse(OWN, "own")), hashlib.sha256(), 0
    for asked, terms, unlisted in questions(seed, count):
        found = policies.decide(asked, terms, owner=NORTH, unlisted=unlisted)
        digest.update(repr((found.allowed, found.visible, found.why, found.policy, found.error.__name__)).encode())
        allowed += found.allowed
    return digest.hexdigest(), allowed


if __name__ == "__main__":
    print(*decided(int(sys.argv[1]), int(sys.argv[2])))
