"""Decisions in a fresh process: ``python -m bench.deciding rate|p99 COUNT`` prints how many a second, or the p99 in ms.

A node with 1,000 objects, each under terms of its own, a grant for each, and 1,000 policies of its owner, of which ten
concern everybody and the others one organization or object each. Nothing is parsed before the first decision.
"""

import random
import statistics
import sys
import time

from hanse.model.identifier import Identifier, Prefix
from hanse.model.keys import KeyId
from hanse.model.papers import Grant
from hanse.model.purposes import Purpose
from hanse.model.record import AccessMode
from hanse.model.terms import Conditions, Duty, Operation, Party, Permission, Terms
from node.own_policies import parse
from node.policy import Asked, Caller, Policies, Usage

OBJECTS = 1_000
FOR_ALL, FOR_SOME = 10, 990
NORTH, ACME, EAST = Prefix.parse("86.north"), Prefix.parse("86.acme"), Prefix.parse("86.east")
KEY = KeyId.parse("ab" * 16)
NOW = 1_795_435_200


def own() -> str:
    forbids = [
        f'forbid (principal, action, resource) when {{ context.key == "{number:032x}" }};' for number in range(FOR_ALL)
    ]
    for number in range(FOR_SOME):
        who = f'principal == Hanse::Organization::"86.other-{number}"' if number % 2 else "principal"
        what = "resource" if number % 2 else f'resource == Hanse::Object::"86.north/trial-{number}"'
        forbids.append(f"forbid ({who}, action, {what}) unless {{ context.weekday < 8 }};")
    return "\n".join(forbids)


def questions(count: int) -> list[tuple[Asked, Terms]]:
    """Half of them under a grant with limits, half unasked."""
    draw, found = random.Random(7), []
    study = Conditions(
        purposes=(Purpose.parse("clinical-research"),),
        valid_until=NOW + 86_400,
        max_fetches=20,
        duties=(Duty.parse("delete-after=30d"),),
    )
    offers = []
    for number in range(OBJECTS):
        id = Identifier.of(NORTH, f"trial-{number}")
        free = Conditions(valid_until=NOW + number + 1)
        terms = Terms(AccessMode.ON_REQUEST, (Permission((Party(ACME),), study), Permission((Party(EAST),), free)))
        offers.append((id, terms, Grant(draw.randbytes(16), NORTH, ACME, None, (id,), study, b"", b"", NOW)))
    for _ in range(count):
        id, terms, grant = draw.choice(offers)
        if draw.random() < 0.5:
            usage = (Usage(draw.randrange(20), draw.randrange(1 << 30)),)
            digests = (grant.nonce * 2,)
            asked = Asked(Caller(ACME, KEY), Operation.FETCH, id, NOW, grant, (grant,), usage, digests)
        else:
            asked = Asked(Caller(EAST, KEY), Operation.FETCH, id, NOW)
        found.append((asked, terms))
    return found


def run(count: int) -> dict[str, float]:
    """Decisions a second, and the p99 of one in milliseconds."""
    policies, asked = Policies(parse(own(), "own.cedar")), questions(count)
    took = []
    began = time.perf_counter()
    for each, terms in asked:
        at = time.perf_counter()
        assert policies.decide(each, terms, owner=NORTH, unlisted=False).allowed
        took.append(time.perf_counter() - at)
    return {"rate": count / (time.perf_counter() - began), "p99": statistics.quantiles(took, n=100)[98] * 1000}


if __name__ == "__main__":
    print(run(int(sys.argv[2]))[sys.argv[1]])
