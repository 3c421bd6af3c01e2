"""Terms, grants and questions to generate: small worlds, in which much is equal and much collides."""

from hypothesis import strategies as st

from hanse.model.identifier import Identifier, Prefix
from hanse.model.keys import KeyId
from hanse.model.purposes import Purpose
from hanse.model.record import AccessMode
from hanse.model.terms import Conditions, Duty, DutyKind, Operation, Party, Permission, Terms

NORTH = Prefix("86.north")
PEERS = (Prefix("86.acme"), Prefix("86.east"), Prefix("86.acme.lab"))
KEYS = (KeyId("0" * 32), KeyId("1" * 32))
NOW = 1_800_000_000
IDS = (Identifier.of(NORTH, "trial"), Identifier.of(NORTH, 'Sc"an\\ 7'))
PURPOSES = tuple(
    Purpose.parse(text)
    for text in (
        "research-and-development",
        "academic-research",
        "commercial-research",
        "health-research",
        "disease-specific-research",
        "audit of 2026",
    )
)

times = st.integers(NOW - 3, NOW + 3)
counts = st.integers(1, 4)
texts = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=20)
duties = (
    st.builds(Duty, st.just(DutyKind.DELETE_AFTER), st.sampled_from([1, 3600, 86_400, 86_401, 30 * 86_400]))
    | st.builds(Duty, st.sampled_from([DutyKind.ATTRIBUTE, DutyKind.OTHER]), st.just(0), texts)
    | st.just(Duty(DutyKind.DO_NOT_PASS_ON))
)
words = texts.filter(lambda text: text == text.strip()).map(Purpose.parse)
some_operations = st.sampled_from(
    [(Operation.DESCRIBE, Operation.FETCH), (Operation.FETCH,), (Operation.DESCRIBE,), tuple(reversed(Operation))]
)


@st.composite
def conditions(draw: st.DrawFn, operations: st.SearchStrategy[tuple[Operation, ...]] = some_operations) -> Conditions:
    owed = tuple(draw(st.lists(duties, max_size=2)))
    begins, ends = draw(st.none() | times), draw(st.none() | times)
    if begins is not None and ends is not None and begins >= ends:
        begins, ends = None, ends
    kept = any(duty.kind is DutyKind.DO_NOT_PASS_ON for duty in owed)
    return Conditions(
        operations=draw(operations),
        purposes=tuple(draw(st.lists(st.sampled_from(PURPOSES) | words, max_size=2, unique=True))),
        valid_from=begins,
        valid_until=ends,
        max_fetches=draw(st.none() | counts),
        max_bytes=draw(st.none() | counts),
        duties=owed,
        pass_on=not kept and draw(st.booleans()),
    )


parties = st.builds(Party, st.sampled_from(PEERS), st.none() | st.sampled_from(KEYS))
several = st.lists(parties, max_size=3, unique=True).map(tuple)
lenient = st.builds(Conditions, valid_from=st.none() | st.just(NOW - 1), valid_until=st.none() | st.just(NOW + 1))
permissions = st.builds(Permission, several, conditions() | lenient, st.booleans())


@st.composite
def some_terms(draw: st.DrawFn) -> Terms:
    mode = draw(st.sampled_from(list(AccessMode)))
    if mode is AccessMode.COMPUTE_ONLY:
        described = conditions(st.just((Operation.DESCRIBE,)))
        return Terms(mode, tuple(draw(st.lists(st.builds(Permission, several, described, st.booleans()), max_size=2))))
    found = draw(st.lists(permissions, max_size=3))
    if mode is AccessMode.OPEN:
        found.append(Permission())
    return Terms(mode, tuple(found))
