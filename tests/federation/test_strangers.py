"""Who does not belong, at the ports of real daemons: strangers, impostors, members without a right.

The league's own authority is among the adversaries: its key is taken from the registry's home.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from hanse import limits, wire
from hanse.client.identity import MARKER, Identity
from hanse.home import Home
from hanse.model.address import Address
from hanse.model.envelope import PayloadType
from hanse.model.identifier import Prefix
from hanse.model.organization import Pass
from hanse.rpc import tls
from hanse.rpc.channel import dial
from hanse.signing import SigningKey, sign
from hanse.v1 import node_pb2, registry_pb2
from tests.processes import League, Node, until

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("strangers")]

NORTH, ACME, EAST = "86.north", "86.acme", "86.east"
TRIAL, SECRET, ABSENT = "86.north/trial", "86.north/secret", "86.north/absent"
ROOT = Prefix("86")


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Iterator[League]:
    with League(tmp_path_factory.mktemp("league")) as made:
        for prefix in (ACME, EAST):
            made.join(prefix, serve=False)
        north = made.join(NORTH)
        for name in ("trial", "secret"):
            (made.folder / name).write_bytes(name.encode() * 1000)
        north.command("add", made.folder / "trial", "--id", "trial", "--allow", ACME)
        north.command("add", made.folder / "secret", "--id", "secret", "--unlisted", "--allow", ACME)
        north.published()
        yield made


@pytest.fixture
def north(league: League) -> Node:
    return league.nodes[NORTH]


@pytest.fixture
def acme(league: League) -> Node:
    return league.nodes[ACME]


@pytest.fixture
def east(league: League) -> Node:
    return league.nodes[EAST]


def identity(node: Node) -> Identity:
    return Identity.load(Home.open(node.home, MARKER, ""))


def authority(league: League) -> tuple[tls.TlsKey, bytes]:
    """The league's certificate authority, as the registry's operator has it."""
    key = tls.TlsKey.from_pem((league.registry.home / "keys" / "ca.pem").read_bytes())
    return key, identity(league.nodes[ACME]).authority.ca_certificate


def issued(league: League, key: tls.TlsKey, prefix: str, now: float) -> bytes:
    """A member's certificate (PEM) that the authority makes for itself."""
    name = Prefix(prefix)
    return tls.to_pem(tls.issue_member(*authority(league), tls.make_request(key, name), ROOT, name, int(now)))


@dataclass(frozen=True)
class Answer:
    """How a call ended: all of it that the caller can see."""

    code: grpc.StatusCode
    text: str
    details: bytes
    messages: int
    seconds: float


class Stranger:
    """Calls the owner's node with any key and certificate, or none."""

    def __init__(self, owner: Node, key: bytes | None, chain: bytes | None) -> None:
        told = identity(owner)
        self.channel = dial(
            Address.parse(owner.process.address),
            roots=told.node_certificate,
            server_name=told.prefix.server_name,
            key=key,
            chain=chain,
        )

    def call(self, method: str, request: Any) -> Answer:
        started = time.perf_counter()
        call = self.channel.unary_stream(f"/hanse.v1.Node/{method}")(request.SerializeToString(), timeout=60)
        messages = 0
        try:
            for _ in call:
                messages += 1
        except grpc.RpcError:
            pass
        trailing = dict(call.trailing_metadata() or ())
        details = trailing.get("grpc-status-details-bin", b"")
        return Answer(call.code(), call.details() or "", bytes(details), messages, time.perf_counter() - started)

    def describe(self, id: str, version: int = 0) -> Answer:
        return self.call("Describe", node_pb2.DescribeRequest(id=id, version=version))

    def close(self) -> None:
        self.channel.close()


def member(node: Node, owner: Node) -> Stranger:
    own = identity(node)
    return Stranger(owner, own.tls_key, own.member_certificate)


# Certificates.


def no_certificate(league: League) -> tuple[bytes | None, bytes | None]:
    return None, None


def self_made(league: League) -> tuple[bytes, bytes]:
    key = tls.TlsKey.generate()
    return key.to_pem(), tls.to_pem(tls.make_node_certificate(key, ROOT, Prefix(ACME), int(time.time())))


def the_nodes_own(league: League) -> tuple[bytes, bytes]:
    """The certificate that a node serves with is not one to call with: no authority stands behind it."""
    own = identity(league.nodes[ACME])
    return own.tls_key, own.node_certificate


def expired(league: League) -> tuple[bytes, bytes]:
    own = identity(league.nodes[ACME])
    key = tls.TlsKey.from_pem(own.tls_key)
    return own.tls_key, issued(league, key, ACME, time.time() - limits.CERTIFICATE_LIFE - 1)


def not_yet_valid(league: League) -> tuple[bytes, bytes]:
    own = identity(league.nodes[ACME])
    return own.tls_key, issued(league, tls.TlsKey.from_pem(own.tls_key), ACME, time.time() + limits.DAY)


def of_another_league(league: League) -> tuple[bytes, bytes]:
    """The same root, the same name, another authority."""
    key, other, now = tls.TlsKey.generate(), tls.TlsKey.generate(), int(time.time())
    request = tls.make_request(key, Prefix(ACME))
    made = tls.issue_member(other, tls.make_authority(other, ROOT, now), request, ROOT, Prefix(ACME), now)
    return key.to_pem(), tls.to_pem(made)


@pytest.mark.parametrize("shows", [no_certificate, self_made, the_nodes_own, expired, not_yet_valid, of_another_league])
def test_a_stranger_does_not_get_past_the_handshake(
    league: League, north: Node, shows: Callable[[League], tuple[bytes | None, bytes | None]]
) -> None:
    before = len(north.lines("audit"))
    with closing(Stranger(north, *shows(league))) as stranger:
        for id in (TRIAL, SECRET, ABSENT):
            answer = stranger.describe(id)
            assert (answer.code, answer.messages, answer.details) == (grpc.StatusCode.UNAVAILABLE, 0, b"")
            assert NORTH not in answer.text.replace("86.north.node.hanse.internal", "")
    assert len(north.lines("audit")) == before


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (ACME, "the certificate says 86.acme, but the record that 86.acme signed names another key"),
        (NORTH, "the certificate says 86.north, but the record that 86.north signed names another key"),
        ("86.nobody", "86.nobody is not a member of the league"),
    ],
    ids=["an allowed member", "the owner itself", "an invented member"],
)
def test_the_authority_cannot_give_itself_a_members_name(league: League, north: Node, name: str, told: str) -> None:
    key = tls.TlsKey.generate()
    with closing(Stranger(north, key.to_pem(), issued(league, key, name, time.time()))) as impostor:
        requests = [
            ("Describe", node_pb2.DescribeRequest(id=TRIAL)),
            ("Hashes", node_pb2.HashesRequest(id=TRIAL, version=1)),
            ("Fetch", node_pb2.FetchRequest(id=TRIAL, version=1, spans=[node_pb2.Span(elements=1)])),
        ]
        for method, request in requests:
            answer = impostor.call(method, request)
            assert (answer.code, answer.messages) == (grpc.StatusCode.UNAUTHENTICATED, 0)
            assert told in answer.text
    rows = north.lines("audit", "--peer", name, "--object", TRIAL)
    assert len(rows) >= len(requests)
    assert not any(row["allowed"] or row["bytes"] for row in rows[: len(requests)])


def test_a_certificate_of_the_league_that_names_no_member_gets_nothing(league: League, north: Node) -> None:
    """The registry's own certificate, used as a client's."""
    key_file = league.registry.home / "keys" / "tls.pem"
    key = tls.TlsKey.from_pem(key_file.read_bytes())
    chain = tls.to_pem(tls.issue_registry(*authority(league), key, ROOT, int(time.time())))
    with closing(Stranger(north, key.to_pem(), chain)) as stranger:
        answer = stranger.describe(TRIAL)
    assert answer.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED)
    assert answer.messages == 0


def test_the_authority_cannot_stand_in_for_a_node(league: League, acme: Node) -> None:
    """A man in the middle at the owner's own address, with a certificate of the league's authority in its name."""
    victim = league.join("86.victim")
    (league.folder / "v").write_bytes(b"v")
    victim.command("add", league.folder / "v", "--id", "v", "--open")
    victim.published()
    acme.command("resolve", "86.victim/v")
    address = victim.process.address
    victim.kill()
    key, (authority_key, authority_certificate) = tls.TlsKey.generate(), authority(league)
    issuer = tls.x509.load_der_x509_certificate(authority_certificate).subject
    name = Prefix("86.victim")
    builder = tls._builder("86.victim", issuer, key.private.public_key(), int(time.time()), 86_400, ca=False)
    usage = tls.ExtendedKeyUsageOID.SERVER_AUTH
    made = tls._sign(tls._end_entity(builder, tls.member_id(ROOT, name), name.server_name, usage), authority_key)
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    server.add_secure_port(address, grpc.ssl_server_credentials([(key.to_pem(), tls.to_pem(made))]))
    server.start()
    try:
        refused = acme.command("fetch", "86.victim/v", "-o", league.folder / "got-v", expect=6)
    finally:
        server.stop(0).wait()
    assert "does not have the key that 86.victim names in its own signed record" in refused.stderr
    assert not (league.folder / "got-v").exists()


# Members without a right.


def test_of_a_published_object_a_member_is_told_that_it_may_not_and_whom_to_ask(
    league: League, north: Node, east: Node
) -> None:
    for arguments in (["fetch", TRIAL, "-o", league.folder / "no"], ["verify", league.folder / "trial", TRIAL]):
        refused = east.command(*arguments, expect=4)
        assert f"{EAST} may not read {TRIAL}: ask {NORTH}" in refused.stderr
        assert refused.stdout == ""
    assert not (league.folder / "no").exists()


REQUESTS: list[tuple[str, Callable[[str, int], Any]]] = [
    ("Describe", lambda id, version: node_pb2.DescribeRequest(id=id, version=version)),
    ("Describe", lambda id, version: node_pb2.DescribeRequest(id=id, version=version, no_pages=True, first_page=9)),
    ("Hashes", lambda id, version: node_pb2.HashesRequest(id=id, version=version, element=0)),
    ("Hashes", lambda id, version: node_pb2.HashesRequest(id=id, version=version, element=99)),
    ("Fetch", lambda id, version: node_pb2.FetchRequest(id=id, version=version, spans=[node_pb2.Span(elements=1)])),
    ("Fetch", lambda id, version: node_pb2.FetchRequest(id=id, version=version, spans=[node_pb2.Span(chunks=99)])),
    ("Fetch", lambda id, version: node_pb2.FetchRequest(id=id, version=version)),
    ("Fetch", lambda id, version: node_pb2.FetchRequest(id=id, version=version, spans=[node_pb2.Span()])),
]


@pytest.mark.parametrize("version", [0, 1, 2, 1 << 62])
def test_an_unlisted_object_looks_like_none_in_every_answer(north: Node, east: Node, version: int) -> None:
    with closing(member(east, north)) as stranger:
        for method, request in REQUESTS:
            secret = stranger.call(method, request(SECRET, version))
            absent = stranger.call(method, request(ABSENT, version))
            assert (secret.code, secret.messages) == (absent.code, absent.messages) == (grpc.StatusCode.NOT_FOUND, 0)
            assert secret.text == absent.text.replace(ABSENT, SECRET)
            assert secret.details == absent.details.replace(ABSENT.encode(), SECRET.encode())
            assert secret.details


@pytest.mark.parametrize("command", ["resolve", "fetch", "verify", "doctor"])
def test_an_unlisted_object_looks_like_none_in_every_command(league: League, east: Node, command: str) -> None:
    def ended(id: str) -> tuple[int, str, str]:
        arguments: Sequence[object] = (command, id)
        if command == "verify":
            arguments = (command, league.folder / "trial", id)
        result = east.command(*arguments, expect=None)
        told = [line for line in result.stdout.splitlines() if " disk " not in line]  # how much is free changes
        return result.code, "\n".join(told).replace(id, "ID"), result.stderr.replace(id, "ID")

    east.command("resolve", TRIAL)  # so that it knows the owner's key before the first of them as before the second
    secret = ended(SECRET)
    assert secret == ended(ABSENT)
    assert secret[0] == 3


def test_an_unlisted_object_cannot_be_told_from_none_by_the_time_that_it_takes(north: Node, east: Node) -> None:
    times: dict[str, list[float]] = {SECRET: [], ABSENT: []}
    with closing(member(east, north)) as stranger:
        for _ in range(10):
            stranger.describe(ABSENT)
        for _ in range(200):
            for id, seconds in times.items():
                answer = stranger.describe(id)
                assert answer.code is grpc.StatusCode.NOT_FOUND
                seconds.append(answer.seconds)
    secret, absent = (statistics.median(each) for each in times.values())
    assert max(secret, absent) < 2 * min(secret, absent), (secret, absent)


def test_a_suspended_member_is_refused_at_its_next_call(league: League, north: Node) -> None:
    suspended = league.join("86.suspended", serve=False)
    north.command("add", league.folder / "trial", "--id", "theirs", "--allow", "86.suspended")
    north.published()
    target = league.folder / "theirs"
    assert suspended.command("fetch", "86.north/theirs", "-o", target).code == 0
    league.registry.command("suspend", "86.suspended", "--reason", "left the league")
    until(
        lambda: (
            "86.suspended is suspended: left the league" in suspended.command("search", "trial", expect=None).stderr
        ),
        "the suspension to reach the registry that runs",
    )
    assert suspended.command("search", "trial", expect=4)
    with closing(member(suspended, north)) as former:

        def refused() -> bool:
            return former.describe("86.north/theirs").code is grpc.StatusCode.PERMISSION_DENIED

        until(refused, "the suspension to reach the node", 2 * limits.MEMBERSHIP_REFRESH)
        for id in (SECRET, ABSENT, TRIAL):
            assert former.describe(id).code is grpc.StatusCode.PERMISSION_DENIED


# Permissions and keys.


def test_a_permission_that_is_bound_to_a_key_is_for_that_key_only(league: League, north: Node, acme: Node) -> None:
    right, wrong = acme.json("status")["key_id"], league.nodes[EAST].json("status")["key_id"]
    north.command("add", league.folder / "trial", "--id", "bound-right", "--allow", f"{ACME}#{right}")
    north.command("add", league.folder / "trial", "--id", "bound-wrong", "--allow", f"{ACME}#{wrong}")
    north.published()
    refused = acme.command("fetch", "86.north/bound-wrong", "-o", league.folder / "bound", expect=4)
    assert f"{ACME} may not read 86.north/bound-wrong" in refused.stderr
    assert not (league.folder / "bound").exists()
    acme.command("fetch", "86.north/bound-right", "-o", league.folder / "bound")
    assert (league.folder / "bound").read_bytes() == (league.folder / "trial").read_bytes()


def test_a_wrong_key_that_was_told_stops_everything_in_its_name(league: League, north: Node) -> None:
    doubter = league.join("86.doubter", serve=False)
    doubter.command("resolve", TRIAL)
    doubter.command("trust", NORTH, "ab" * 16)
    for command in (["resolve", TRIAL], ["fetch", TRIAL, "-o", league.folder / "no"], ["search", "--owner", NORTH]):
        refused = doubter.command(*command, expect=6)
        assert f"{NORTH} has key" in refused.stderr
        assert TRIAL not in refused.stdout
    doubter.command("trust", NORTH, north.json("status")["key_id"])
    doubter.command("resolve", TRIAL)


def test_a_key_that_was_told_to_a_running_node_counts_at_its_next_call(league: League, north: Node, acme: Node) -> None:
    true = acme.json("status")["key_id"]
    with closing(member(acme, north)) as caller:
        assert caller.describe(TRIAL).code is grpc.StatusCode.OK
        north.command("trust", ACME, "cd" * 16)
        refused = caller.describe(TRIAL)
        assert refused.code is grpc.StatusCode.UNAUTHENTICATED, refused
        north.command("trust", ACME, true)
        assert caller.describe(TRIAL).code is grpc.StatusCode.OK


# At the registry.


def registry_channel(league: League) -> grpc.Channel:
    own = identity(league.nodes[ACME])
    name = tls.registry_name(own.authority.root)
    return dial(own.registries[0], roots=tls.to_pem(own.authority.ca_certificate), server_name=name)


MEMBERS_ONLY = [
    ("GetMembership", registry_pb2.GetMembershipRequest()),
    ("GetOrganization", registry_pb2.GetOrganizationRequest(prefix=NORTH)),
    ("Resolve", registry_pb2.ResolveRequest(ids=[TRIAL])),
    ("Search", registry_pb2.SearchRequest(text="trial")),
    ("Watch", registry_pb2.WatchRequest()),
    ("Publish", registry_pb2.PublishRequest()),
]


def ask(channel: grpc.Channel, method: str, request: Any, metadata: Any) -> tuple[grpc.StatusCode, str]:
    path, data = f"/hanse.v1.Registry/{method}", request.SerializeToString()
    if method == "Publish":
        call: Any = channel.stream_stream(path)(iter([data]), metadata=metadata, timeout=60)
    elif method == "Watch":
        call = channel.unary_stream(path)(data, metadata=metadata, timeout=60)
    else:
        call = channel.unary_unary(path).with_call
        try:
            _, done = call(data, metadata=metadata, timeout=60)
        except grpc.RpcError as error:
            refused: Any = error
            return refused.code(), refused.details() or ""
        return done.code(), ""
    try:
        next(call)
    except grpc.RpcError:
        return call.code(), call.details() or ""
    call.cancel()
    return grpc.StatusCode.OK, ""


def passport(of: Identity, *, key: SigningKey | None = None, **changes: Any) -> bytes:
    now = int(time.time())
    said = {"prefix": of.prefix, "league": of.authority.fingerprint, "issued_at": now, "expires_at": now + 600}
    statement = Pass(**(said | changes))
    return wire.encode_envelope(sign(PayloadType.PASS, wire.encode_pass(statement), key or of.signing_key))


LONG_AGO = {"issued_at": 1_700_000_000, "expires_at": 1_700_000_600}
EVERGREEN = {"issued_at": 1_700_000_000, "expires_at": 1 << 39}
PASSES: dict[str, Callable[[Identity], Sequence[tuple[str, str | bytes]]]] = {
    "none": lambda own: (),
    "empty": lambda own: (("hanse-pass-bin", b""),),
    "garbage": lambda own: (("hanse-pass-bin", b"\xff" * 300),),
    "huge": lambda own: (("hanse-pass-bin", b"\x0a" * 5000),),
    "under another name": lambda own: (("hanse-pass", "x"), ("authorization", "Bearer x")),
    "of another league": lambda own: (("hanse-pass-bin", passport(own, league=bytes(32))),),
    "run out": lambda own: (("hanse-pass-bin", passport(own, **LONG_AGO)),),
    "for ever": lambda own: (("hanse-pass-bin", passport(own, **EVERGREEN)),),
    "of tomorrow": lambda own: (("hanse-pass-bin", passport(own, issued_at=int(time.time()) + 86_400)),),
    "of nobody": lambda own: (("hanse-pass-bin", passport(own, prefix=Prefix("86.nobody"))),),
    "in another's name": lambda own: (("hanse-pass-bin", passport(own, prefix=Prefix(NORTH))),),
    "of a made-up key": lambda own: (("hanse-pass-bin", passport(own, key=SigningKey.generate())),),
    "not a pass": lambda own: (
        ("hanse-pass-bin", wire.encode_envelope(sign(PayloadType.RENEWAL, b"", own.signing_key))),
    ),
}


@pytest.mark.parametrize("shows", PASSES.values(), ids=PASSES)
def test_without_a_members_own_pass_the_registry_tells_nothing(
    league: League, shows: Callable[[Identity], Sequence[tuple[str, str | bytes]]]
) -> None:
    own = identity(league.nodes[ACME])
    with closing(registry_channel(league)) as channel:
        for method, request in MEMBERS_ONLY:
            code, text = ask(channel, method, request, shows(own))
            assert code is grpc.StatusCode.UNAUTHENTICATED, (method, code, text)
            assert text
            assert "secret" not in text
        for method, request in MEMBERS_ONLY:
            if method != "Watch":  # one that is let in waits for news
                assert ask(channel, method, request, (("hanse-pass-bin", passport(own)),))[0] is grpc.StatusCode.OK


def test_a_pass_that_was_overheard_ends_with_its_time(league: League) -> None:
    """A remembered pass is not good for longer than one that is seen for the first time."""
    own = identity(league.nodes[ACME])
    with closing(registry_channel(league)) as channel:
        grpc.channel_ready_future(channel).result(60)  # the pass's last seconds are for the call alone
        issued_at = int(time.time()) - limits.PASS_LIFE - limits.CLOCK_SKEW + 5
        metadata = (("hanse-pass-bin", passport(own, issued_at=issued_at, expires_at=issued_at + limits.PASS_LIFE)),)

        def code() -> grpc.StatusCode:
            return ask(channel, "Resolve", registry_pb2.ResolveRequest(ids=[TRIAL]), metadata)[0]

        assert code() is grpc.StatusCode.OK
        until(lambda: code() is grpc.StatusCode.UNAUTHENTICATED, "the pass to run out")


def test_a_retired_key_signs_no_pass_and_no_renewal(league: League) -> None:
    rotating = league.join("86.rotating")
    before = identity(rotating)
    rotating.command("rotate-key")
    rotating.published()
    until(lambda: identity(rotating).previous_key is None, "the rotation to be acknowledged")
    with closing(registry_channel(league)) as channel:
        request = registry_pb2.ResolveRequest(ids=[TRIAL])
        assert ask(channel, "Resolve", request, (("hanse-pass-bin", passport(identity(rotating))),))[0] is (
            grpc.StatusCode.OK
        )
        code, text = ask(channel, "Resolve", request, (("hanse-pass-bin", passport(before)),))
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "not signed by the member's current key" in text


def test_nobody_learns_from_the_registry_what_an_unlisted_object_is_called(league: League, north: Node) -> None:
    found = [each for each in Path(league.registry.home).rglob("*") if each.is_file()]
    assert found
    assert not any(SECRET.encode() in each.read_bytes() for each in found)
    assert any(TRIAL.encode() in each.read_bytes() for each in found)


def test_the_daemons_had_nothing_to_complain_of(league: League, north: Node) -> None:
    for process in (north.process, league.registry.process):
        assert process.running
        assert "Traceback" not in process.everything
        assert '"level": "error"' not in process.everything
