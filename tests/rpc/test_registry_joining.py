"""Invitations, joining and renewal over real sockets."""

from dataclasses import replace

import pytest

from hanse import limits, wire
from hanse.errors import AlreadyExists, InvalidInput, NotAuthenticated, NotPermitted, Suspended
from hanse.model.envelope import PayloadType
from hanse.model.identifier import Prefix
from hanse.model.organization import Renewal
from hanse.rpc import tls
from hanse.signing import SigningKey, sign
from hanse.v1 import registry_pb2
from registry import app
from tests.league import Member, Registry, eventually, raised


class Clock:
    def __init__(self):
        self.offset = 0.0

    def __call__(self):
        import time

        return time.time() + self.offset


@pytest.fixture(scope="module")
def clock():
    return Clock()


@pytest.fixture(scope="module")
def registry(tmp_path_factory, clock):
    with Registry.start(tmp_path_factory.mktemp("league") / "registry", clock=clock) as running:
        yield running


def test_given_an_invitation_then_the_member_gets_a_certificate_for_its_key(registry):
    member = Member.make(registry, "86.a")
    certificate = tls.read_certificate(member.join(registry.invite("86.a")))
    assert certificate.organization == Prefix("86.a")
    assert certificate.key_digest == tls.read_certificate(member.node_certificate).key_digest
    assert certificate.not_after - registry.clock() <= limits.CERTIFICATE_LIFE
    assert member.membership().members


def test_given_a_lost_answer_when_repeated_then_it_is_answered_again(registry):
    member, invitation = Member.make(registry, "86.b"), registry.invite("86.b")
    first, second = member.join(invitation), member.join(invitation)
    assert tls.read_certificate(first).key_digest == tls.read_certificate(second).key_digest
    assert [str(each.prefix) for each in app.orgs(registry.folder)].count("86.b") == 1


def test_given_a_spent_invitation_then_another_organization_is_refused(registry):
    invitation = registry.invite("86.c")
    Member.make(registry, "86.c").join(invitation)
    with pytest.raises(NotPermitted, match="was used already"):
        Member.make(registry, "86.c").join(invitation)


def test_given_two_invitations_for_one_prefix_then_only_the_first_joins(registry):
    first, second = registry.invite("86.d"), registry.invite("86.d")
    Member.make(registry, "86.d").join(first)
    with pytest.raises(AlreadyExists, match=r"86\.d is a member already"):
        Member.make(registry, "86.d").join(second)
    with pytest.raises(AlreadyExists, match=r"86\.d is a member already"):
        registry.invite("86.d")


def test_given_an_expired_invitation_then_it_is_refused(registry, clock):
    invitation = registry.invite("86.e", valid=60)
    clock.offset += 61
    try:
        with pytest.raises(NotPermitted, match="has expired"):
            Member.make(registry, "86.e").join(invitation)
    finally:
        clock.offset = 0


@pytest.mark.parametrize("prefix", ["87.x", "86", "860.x", "x.86.y"])
def test_given_a_prefix_that_is_not_under_the_root_then_nobody_is_invited(registry, prefix):
    with pytest.raises(InvalidInput, match="not under this registry's root 86"):
        registry.invite(prefix)


def refused_join(registry, prefix, alter):
    invitation = wire.invitation_from_text(registry.invite(prefix))
    member = Member.make(registry, prefix)
    invitation = alter(member, invitation) or invitation
    member.join(invitation)


def _unknown_secret(_, invitation):
    return replace(invitation, secret=bytes(16))


def _no_secret(_, invitation):
    return replace(invitation, secret=b"")


def _other_prefix(member, _):
    member.organization = replace(member.organization, prefix=Prefix("86.z"))
    member.organization_envelope = sign(
        PayloadType.ORGANIZATION, wire.encode_organization(member.organization), member.key
    )


def _version_two(member, _):
    member.organization = replace(member.organization, version=2, previous=bytes(32))
    member.organization_envelope = sign(
        PayloadType.ORGANIZATION, wire.encode_organization(member.organization), member.key
    )


def _no_nodes(member, _):
    member.organization = replace(member.organization, nodes=())
    member.organization_envelope = sign(
        PayloadType.ORGANIZATION, wire.encode_organization(member.organization), member.key
    )


def _signed_by_another(member, _):
    member.organization_envelope = sign(
        PayloadType.ORGANIZATION, member.organization_envelope.payload, SigningKey.generate()
    )


def _another_tls_key(member, _):
    member.tls_key = tls.TlsKey.generate()


@pytest.mark.parametrize(
    ("alter", "error", "said"),
    [
        (_unknown_secret, NotPermitted, "does not know the invitation"),
        (_no_secret, NotPermitted, "does not know the invitation"),
        (_other_prefix, NotPermitted, "the invitation is for 86.f0, not for 86.z"),
        (_version_two, InvalidInput, "joins with version 1"),
        (_no_nodes, InvalidInput, "at least one node certificate"),
        (_signed_by_another, InvalidInput, "not signed by the key"),
        (_another_tls_key, NotPermitted, "a key that the record of 86.f0 does not name"),
    ],
)
def test_given_a_request_that_is_wrong_then_nobody_joins(registry, alter, error, said):
    with pytest.raises(error, match=said):
        refused_join(registry, "86.f0", alter)
    assert Prefix("86.f0") not in {each.prefix for each in app.orgs(registry.folder)}


def renew(member, *, key=None, tls_key=None, league=None, now=None):
    renewal = Renewal(
        member.prefix,
        member.league if league is None else league,
        int(member.registry.clock()) if now is None else now,
        tls.make_request(tls_key or member.tls_key, member.prefix),
    )
    envelope = sign(PayloadType.RENEWAL, wire.encode_renewal(renewal), key or member.key)
    request = registry_pb2.RenewRequest(renewal=wire.envelope_to_message(envelope))
    with raised():
        return member.stub.Renew(request, timeout=60).certificate


def test_given_a_member_whose_certificate_ran_out_then_it_is_renewed(registry, clock):
    member = registry.join("86.g")
    clock.offset = 30 * limits.DAY
    try:
        certificate = tls.read_certificate(renew(member))
        assert certificate.not_after > clock() + limits.CERTIFICATE_LIFE - 60
    finally:
        clock.offset = 0


def test_given_a_renewal_that_is_wrong_then_it_is_refused(registry):
    member = registry.join("86.h")
    for wrong in ({"key": SigningKey.generate()}, {"league": bytes(32)}, {"now": int(registry.clock()) - 1000}):
        with pytest.raises(NotAuthenticated):
            renew(member, **wrong)
    with pytest.raises(NotPermitted, match="does not name"):
        renew(member, tls_key=tls.TlsKey.generate())
    with pytest.raises(NotAuthenticated, match="not a member"):
        renew(Member.make(registry, "86.stranger"), league=member.league)


def test_given_a_suspended_member_then_nothing_is_renewed(registry):
    member, invitation = Member.make(registry, "86.i"), registry.invite("86.i")
    member.join(invitation)
    app.suspend(registry.folder, Prefix("86.i"))

    def suspended():
        try:
            renew(member)
        except Suspended:
            return True
        return False

    eventually(suspended)
    with pytest.raises(Suspended):
        member.join(invitation)
