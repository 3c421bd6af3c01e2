"""Why does it not work: named checks, each with what was found and what to do.

What it is not: a repair. It changes nothing but what any command learns by asking (the cache).
The rule it keeps: it works when everything is broken. A check that cannot be made says why, and the next one goes on.

    for finding in examine(Path("north"), "86.acme/x1"):
        print(finding.check, finding.grade, finding.text)
"""

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path

from hanse import limits, trust
from hanse.client.identity import IDENTITY_KEY, MARKER, MEMBER_CERTIFICATE, NODE_CERTIFICATE, TLS_KEY, Identity
from hanse.client.league import League
from hanse.client.reaching import reach
from hanse.client.resolve import Resolver
from hanse.client.storage.known import FILE as KNOWN
from hanse.client.storage.known import Known
from hanse.errors import (
    HanseError,
    HomeUnusable,
    InvalidInput,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    Suspended,
    Unreachable,
    VerificationFailed,
)
from hanse.home import Home
from hanse.model.address import Address
from hanse.model.identifier import Identifier, Prefix
from hanse.model.organization import Member, Membership, OrganizationRecord
from hanse.rpc import tls
from hanse.rpc.channel import unverified_certificate
from node.catalog import CATALOG, Catalog
from node.own_policies import FOLDER, read
from node.storage.catalog import CatalogStorage
from node.storage.monitor import FILE as MONITOR
from node.storage.monitor import MonitorStorage

PROBE_TIMEOUT = 5.0  # seconds: a person waits for it
LITTLE_SPACE = 1 << 30  # bytes: a warning
NO_SPACE = 64 << 20  # bytes: databases and certificates cannot be written safely much longer
_ANY_TIME = 1 << 40  # the clock is judged by a check of its own


class Grade(StrEnum):
    """WARN works now, and will not for long or not for all."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """``remedy`` says what to do, unless all is well; ``exit_code`` is that of the error behind it."""

    check: str
    grade: Grade
    text: str
    remedy: str = ""
    exit_code: int = 0


def examine(
    folder: Path, target: Prefix | Identifier | None = None, clock: Callable[[], float] = time.time
) -> Iterator[Finding]:
    """Each finding when it is made: this home first, then the registry, then the organization or object asked for."""
    identity: list[Identity] = []
    yield from _each("home", lambda: _home(folder))
    yield from _each("keys", lambda: _keys(folder, identity))
    yield from _each("disk", lambda: _disk(folder))
    if not identity:
        return
    yield from _Examination(identity[0], clock).run(target)


def worst(findings: Iterable[Finding]) -> int:
    """The exit code: that of the first failure, which is often the cause of those after it. 0 if there is none."""
    return next((each.exit_code or 1 for each in findings if each.grade is Grade.FAIL), 0)


def parse_target(text: str) -> Prefix | Identifier:
    """Raises InvalidInput."""
    return Identifier.parse(text) if "/" in text else Prefix.parse(text)


def _each(check: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of a check; an error that it meets is one."""
    try:
        yield from look()
    except HanseError as error:
        yield Finding(check, Grade.FAIL, str(error), exit_code=error.exit_code)
    except Exception as bug:  # noqa: BLE001 - a doctor does not faint
        yield Finding(check, Grade.FAIL, f"could not be examined: {type(bug).__name__}", exit_code=1)


def _ok(check: str, text: str) -> Finding:
    return Finding(check, Grade.OK, text)


def _warn(check: str, text: str, remedy: str) -> Finding:
    return Finding(check, Grade.WARN, text, remedy)


def _fail(check: str, text: str, remedy: str, error: type[HanseError] = HanseError) -> Finding:
    return Finding(check, Grade.FAIL, text, remedy, error.exit_code)


def _home(folder: Path) -> Iterator[Finding]:
    if not (folder / MARKER).exists():
        begun = (folder / "keys").is_dir()
        yield _fail(
            "home",
            f"{folder} {'was begun, but joining did not end' if begun else 'is not set up'}",
            "`hanse join INVITATION` sets it up; --home or HANSE_HOME names another folder",
            HomeUnusable,
        )
        return
    mode = stat.S_IMODE(folder.stat().st_mode)
    if not os.access(folder, os.W_OK | os.X_OK):
        yield _fail("home", f"{folder} is not writable", "check its owner and mode", HomeUnusable)
    elif mode & 0o077:
        yield _warn("home", f"{folder} has mode {mode:04o}: others on this machine see into it", f"chmod 700 {folder}")
    else:
        yield _ok("home", str(folder))


def _keys(folder: Path, found: list[Identity]) -> Iterator[Finding]:
    if not (folder / MARKER).exists():
        return
    for name in (IDENTITY_KEY, TLS_KEY, NODE_CERTIFICATE, MEMBER_CERTIFICATE):
        if not (folder / name).exists():
            yield _fail("keys", f"{folder / name} is missing", "restore it from your backup", HomeUnusable)
            return
    identity = Identity.load(Home(folder))
    try:
        shown = tls.read_certificate(tls.from_pem(identity.node_certificate))
        issued = tls.read_certificate(tls.from_pem(identity.member_certificate))
    except InvalidInput:
        yield _fail("keys", "a certificate file is damaged", "restore the home from a backup", HomeUnusable)
        return
    own = _tls_key_digest(identity)
    if own != shown.key_digest or own != issued.key_digest:
        yield _fail("keys", "the TLS key and the certificates do not belong together", "restore the home from a backup")
    elif issued.organization != identity.prefix:
        yield _fail("keys", "the certificate is that of another organization", "restore the home from a backup")
    else:
        yield _ok("keys", f"{identity.prefix}, key {identity.signing_key.public.key_id}")
    found.append(identity)


def _tls_key_digest(identity: Identity) -> bytes:
    key = tls.TlsKey.from_pem(identity.tls_key)
    return tls.request_key_digest(tls.make_request(key, identity.prefix))


def _disk(folder: Path) -> Iterator[Finding]:
    standing = next((each for each in (folder, *folder.absolute().parents) if each.is_dir()), Path("/"))
    free = shutil.disk_usage(standing).free
    text = f"{free / (1 << 30):.1f} GiB free where {standing} is"
    if free < NO_SPACE:
        yield _fail("disk", text, "free some space")
    elif free < LITTLE_SPACE:
        yield _warn("disk", text, "free some space before it is used up")
    else:
        yield _ok("disk", text)


class _Examination:
    """A home that opens: what it keeps, and whom it talks to."""

    def __init__(self, identity: Identity, clock: Callable[[], float]) -> None:
        self._identity = identity
        self._home = identity.home
        self._clock = clock
        self._membership: Membership | None = None
        self._own: OrganizationRecord | None = None

    def run(self, target: Prefix | Identifier | None) -> Iterator[Finding]:
        yield from _each("certificate", self._certificate)
        yield from _each("cache", self._cache)
        with contextlib.closing(reach(self._identity, self._clock)) as league:
            yield from _each("registry", lambda: self._registry(league))
            if self._membership is not None:
                yield from _each("standing", self._standing)
                yield from _each("own record", lambda: self._own_record(league))
            yield from _each("own node", self._own_node)
            yield from _each("sources", self._sources)
            yield from _each("outbox", self._outbox)
            yield from _each("policies", self._policies)
            yield from _each("monitor", self._monitor)
            if target is not None:
                yield from _each("target", lambda: self._target(league, target))

    def _cache(self) -> Iterable[Finding]:
        Known.open(self._home / KNOWN).close()
        return ()

    def _certificate(self) -> Iterator[Finding]:
        now, shown = int(self._clock()), self._identity.certificate
        left = shown.not_after - now
        if now < shown.not_before:
            yield _fail("certificate", "it is not valid yet", "set this machine's clock", NotAuthenticated)
        elif left < 0:
            yield _fail(
                "certificate", f"it ran out {_span(-left)} ago",
                "start `hanse serve`, which renews it; or set the clock, if that is wrong", NotAuthenticated,
            )  # fmt: skip
        elif left < limits.CERTIFICATE_LIFE // 4:
            yield _warn("certificate", f"it runs out in {_span(left)}", "start `hanse serve`, which renews it")
        else:
            yield _ok("certificate", f"valid for {_span(left)}")

    def _registry(self, league: League) -> Iterator[Finding]:
        try:
            head, members = league.get_membership()
        except NotAuthenticated as error:
            yield _ok("registry", f"answers at {league.answered}")
            if "clock" in str(error):
                yield _fail("clock", str(error), "set this machine's clock (NTP)", NotAuthenticated)
            else:
                yield _fail("registry", str(error), "use the copy of this home whose key is newest", type(error))
            return
        except NotPermitted as error:
            yield _ok("registry", f"answers at {league.answered}")
            yield _fail("standing", str(error), "ask the registry's operator", type(error))
            return
        except Unreachable as error:
            yield self._why_unreachable(error, league.addresses)
            return
        self._membership = trust.membership(head, members, self._identity.authority, now=_ANY_TIME)
        yield _ok("registry", f"it is the league's, and answers at {league.answered}")
        ahead = self._membership.issued_at - int(self._clock())
        if ahead > limits.CLOCK_SKEW:
            yield _fail("clock", f"this machine is {_span(ahead)} behind the registry", "set the clock (NTP)")
        elif ahead > limits.CLOCK_SKEW // 4:
            yield _warn("clock", f"this machine is {_span(ahead)} behind the registry", "set the clock (NTP)")
        else:
            yield _ok("clock", f"agrees with the registry's to {limits.CLOCK_SKEW} s")

    def _why_unreachable(self, error: Unreachable, addresses: Iterable[Address]) -> Finding:
        for address in addresses:
            try:
                shown = tls.read_certificate(tls.from_pem(unverified_certificate(address, PROBE_TIMEOUT)))
            except (Unreachable, InvalidInput):
                continue
            expected = f"spiffe://{self._identity.authority.root}/registry"
            if shown.spiffe_id != expected:
                return _fail(
                    "registry", f"what answers at {address} is not the registry of this league",
                    "ask the registry's operator for its address", VerificationFailed,
                )  # fmt: skip
            if not shown.not_before <= self._clock() <= shown.not_after:
                return _fail(
                    "clock", "by this machine's clock, the registry's certificate is not valid now",
                    "set this machine's clock (NTP)", NotAuthenticated,
                )  # fmt: skip
            return _fail("registry", str(error), "it answers, but not to us: does it have another authority now?")
        return Finding(
            "registry", Grade.FAIL, str(error),
            "is the network up, and does a firewall let gRPC through? `add` and fetches from known nodes go on", 5,
        )  # fmt: skip

    def _standing(self) -> Iterator[Finding]:
        assert self._membership is not None  # noqa: S101
        yield _member("standing", self._membership.members.get(self._identity.prefix), self._identity.prefix)

    def _own_record(self, league: League) -> Iterator[Finding]:
        newest = trust.chain(league.get_organization(self._identity.prefix), pinned=None, now=_ANY_TIME)
        if newest is None:
            yield _fail("own record", "the registry has none", "start `hanse serve`, which publishes it", NotFound)
            return
        self._own = newest.record
        certificate = tls.from_pem(self._identity.node_certificate)
        if newest.record.current_key != self._identity.signing_key.public:
            yield _fail(
                "own record", f"the registry knows this organization by key {newest.record.current_key.key_id}",
                "after `hanse rotate-key`, let `hanse serve` publish the new one; otherwise this home is an old copy",
                NotAuthenticated,
            )  # fmt: skip
        elif certificate not in [node.tls_certificate for node in newest.record.nodes]:
            yield _fail("own record", "it names another node's certificate", "restart `hanse serve`")
        else:
            where = ", ".join(str(node.address) for node in newest.record.nodes if node.address) or "no address yet"
            yield _ok("own record", f"version {newest.record.version}, {where}")

    def _policies(self) -> Iterator[Finding]:
        try:
            count = len(read(self._home / FOLDER))
        except InvalidInput as error:
            yield _fail(
                "policies", str(error), "until then a running node keeps those it took before, and cannot start anew",
                InvalidInput,
            )  # fmt: skip
            return
        if count:
            yield _ok("policies", f"{count} of your own, as the schema wants them")

    def _monitor(self) -> Iterator[Finding]:
        """Only when there is something: what the monitor has found is no reason why nothing works."""
        if not (self._home / MONITOR).exists():
            return
        with contextlib.closing(MonitorStorage.open(self._home / MONITOR)) as storage:
            found = storage.findings()
        if found:
            text = f"{len(found)} done in your name in the registry's log that this home did not sign off"
            yield _fail("monitor", text, "`hanse monitor` says what, and what to do", VerificationFailed)

    def _own_node(self) -> Iterator[Finding]:
        if self._own is None:
            return
        addresses = [node.address for node in self._own.nodes if node.address is not None]
        if not addresses:
            yield _warn("own node", "others do not know where it is", "run `hanse serve`; without it, you only fetch")
            return
        yield from (self._dialled("own node", address, self._own) for address in addresses)

    def _dialled(self, check: str, address: Address, owner: OrganizationRecord) -> Finding:
        """Whether the node whose certificate the owner's record carries answers there."""
        mine = owner.prefix == self._identity.prefix
        remedy = (
            "start `hanse serve`" if mine else f"it is for {owner.prefix} to start its node, or to publish where it is"
        )
        try:
            shown = tls.from_pem(unverified_certificate(address, PROBE_TIMEOUT))
        except (Unreachable, InvalidInput):
            return _fail(check, f"nothing answers at {address}", remedy, Unreachable)
        if shown not in [node.tls_certificate for node in owner.nodes]:
            digest = sha256(shown).hexdigest()[:16]
            return _fail(
                check, f"what answers at {address} has another certificate ({digest}…) than the record that "
                f"{owner.prefix} signed", f"it is not that node: {remedy}", VerificationFailed,
            )  # fmt: skip
        return _ok(check, f"answers at {address} with the certificate of its record")

    def _sources(self) -> Iterator[Finding]:
        with contextlib.closing(CatalogStorage.open(self._home / CATALOG)) as storage:
            catalog = Catalog(storage, self._identity, self._clock)
            count = sum(not each.withdrawn for each in catalog.list())
            drifts = list(catalog.check(False, None))
        if drifts:
            yield _warn("sources", f"{len(drifts)} of what was promised is different now", "`hanse check` names it")
        else:
            yield _ok("sources", f"{count} wrapped, all there")

    def _outbox(self) -> Iterator[Finding]:
        with contextlib.closing(CatalogStorage.open(self._home / CATALOG)) as storage:
            waiting = Catalog(storage, self._identity, self._clock).outbox.all()
        failed = next((each.last_error for each in waiting if each.last_error), "")
        if not waiting:
            yield _ok("outbox", "nothing waits to be published")
        elif self._home.holder() is None:
            yield _warn("outbox", f"{len(waiting)} to publish, and the node is not running", "run `hanse serve`")
        elif failed:
            yield _warn("outbox", f"{len(waiting)} to publish: {failed}", "`hanse status` shows each")
        else:
            yield _ok("outbox", f"{len(waiting)} being published")

    def _target(self, league: League, target: Prefix | Identifier) -> Iterator[Finding]:
        prefix = target.prefix if isinstance(target, Identifier) else target
        with contextlib.closing(Known.open(self._home / KNOWN)) as known:
            pinned, told = known.organization(prefix), known.told_key(prefix)
            if self._membership is not None:
                member = self._membership.members.get(prefix)
                yield _member("member", member, prefix)
                if member is None:
                    return
            resolver = Resolver(self._identity, known, league, self._clock)
            owner = resolver.organization(prefix, fresh=self._membership is not None).record
            key = owner.current_key.key_id
            if told is not None:
                yield _ok("key", f"{key}, confirmed by you")
            elif pinned is not None:
                yield _ok("key", f"{key}, continued from what was first seen here")
            else:
                yield _warn(
                    "key", f"{key}, seen now for the first time: only the registry vouches for it",
                    f"ask {prefix} for it on another channel, then `hanse trust {prefix} KEYID`",
                )  # fmt: skip
            addresses = [node.address for node in owner.nodes if node.address is not None]
            if not addresses:
                yield _fail("node", f"{prefix} publishes no address", f"ask {prefix} to run `hanse serve`", Unreachable)
            for address in addresses:
                yield self._dialled("node", address, owner)
            if isinstance(target, Identifier):
                yield from _each("record", lambda: self._record(resolver, target))
                yield from _each("policy", lambda: self._policy(resolver, target))

    def _record(self, resolver: Resolver, target: Identifier) -> Iterator[Finding]:
        try:
            found = resolver.record(target, max_age=0)
        except NotFound as error:
            yield _fail("record", str(error), "it may be unlisted: then its owner's node alone knows it", NotFound)
            return
        yield _ok("record", f"version {found.record.record.version}, signed by {found.record.signed_by}")

    def _policy(self, resolver: Resolver, target: Identifier) -> Iterator[Finding]:
        try:
            with resolver.peer(target.prefix) as peer:
                described = peer.describe(target, no_pages=True)
                described.close()
            version = resolver.accept(target, described.record)[0].record.version
        except Suspended as error:
            yield _fail("policy", str(error), "ask the registry's operator", Suspended)
        except NotPermitted as error:
            yield _fail("policy", str(error), "ask the owner to allow it to you", NotPermitted)
        else:
            yield _ok("policy", f"you may fetch it (version {version})")


def _member(check: str, member: Member | None, prefix: Prefix) -> Finding:
    if member is None:
        return _fail(check, f"{prefix} is not a member of the league", "is the prefix right?", NotFound)
    if member.suspended_at is not None:
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(member.suspended_at))
        why = f": {member.reason}" if member.reason else ""
        return _fail(check, f"{prefix} is suspended since {since}{why}", "ask the registry's operator", Suspended)
    return _ok(check, f"{prefix} is a member in good standing")


def _span(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"
