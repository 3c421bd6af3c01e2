from hypothesis import given
from hypothesis import strategies as st

from hanse.v1 import envelope_pb2, registry_pb2
from registry import framing

envelopes = st.builds(
    lambda kind, payload, keyid: envelope_pb2.Envelope(
        payload_type=kind, payload=payload, signatures=[envelope_pb2.Signature(keyid=keyid, sig=b"s" * 64)]
    ),
    st.text(max_size=40),
    st.binary(max_size=300) | st.integers(0, 70_000).map(bytes),
    st.text(max_size=32),
)


@given(st.lists(st.tuples(envelopes, st.booleans()), max_size=4))
def test_spliced_resolutions_are_what_the_generated_code_reads(records):
    spliced = b"".join(framing.resolution(each.SerializeToString(), gone) for each, gone in records)
    answer = registry_pb2.ResolveResponse.FromString(spliced)
    assert [each.record for each in answer.resolutions] == [each for each, _ in records]
    assert [each.state for each in answer.resolutions] == [2 if gone else 1 for _, gone in records]
    assert answer.SerializeToString() == spliced


@given(st.integers(1, (1 << 63) - 1), envelopes)
def test_spliced_changes_are_what_the_generated_code_reads(position, envelope):
    answer = registry_pb2.WatchResponse.FromString(framing.change(position, envelope.SerializeToString()))
    assert answer.changes[0] == registry_pb2.Change(position=position, envelope=envelope)
