"""Every limit by name, with its unit and its reason. SPEC.md section 13 lists those that cross the network."""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
HOUR: Final = 3600
DAY: Final = 24 * HOUR

# Identifiers and names.
IDENTIFIER_BYTES: Final = 512  # fits an index page of every database we know
PREFIX_BYTES: Final = 200  # leaves room for a suffix, and for a DNS name made from it (253 bytes)
LABEL_BYTES: Final = 63  # a label of a prefix is a label of a DNS name
ELEMENT_NAME_BYTES: Final = 4096  # PATH_MAX
ELEMENT_PART_BYTES: Final = 255  # NAME_MAX of every common file system
FOLDER_DEPTH: Final = 128  # folders in folders: each is an open descriptor while its contents are wrapped

# Messages.
ENVELOPE_BYTES: Final = 64 * KIB  # a record or an organization record, whole: metadata, not data
BATCH: Final = 1000  # envelopes or identifiers in one message
MANIFEST_PAGE_BYTES: Final = 1 * MIB  # a page is verified whole before it is used
MANIFEST_PAGE_ELEMENTS: Final = 4096  # keeps a page of long names within MANIFEST_PAGE_BYTES, with the check in wire
ENVELOPE_EXTRA_BYTES: Final = 1 * KIB  # an envelope's type and signatures, at most, and what frames them
MESSAGE_BYTES: Final = 4 * MIB  # what either side receives at most in one message: gRPC's own default
MEMBERSHIP_BYTES: Final = 16 * MIB  # what a member takes from a registry in one message: a list of 100,000 members
SEARCH_PAGE: Final = 100  # records
SEARCH_TEXT_BYTES: Final = 1 * KIB  # a question, not a document
SEARCH_COUNT: Final = 500  # matches ranked and counted: more tells nobody anything

# Logs.
NOTE_BYTES: Final = 128 * KIB  # a signed checkpoint: room for 16 signatures, post-quantum ones too
CONSISTENCY_HASHES: Final = 64  # of one proof: a log of 2**63 leaves needs fewer
FORKS_PER_PEER: Final = 16  # pairs of contradicting checkpoints that are kept: one would do
OVERTAKEN: Final = 60  # seconds; a checkpoint older than this did not merely arrive after a newer one

CHECKPOINT_AGE: Final = 60  # seconds after which a registry's checkpoint is no answer any more
FINDINGS: Final = 1000  # of a monitor that are kept: a registry that floods it has been found out long before
PROOFS: Final = 100  # identifiers in one Resolve that asks for proofs: each is some 20 hashes
CONTINUED: Final = 100  # organization records in one Continue: each may cost the registry a signature check

# Content.
CHUNK_BYTES: Final = 1 * MIB  # what is verified at once; SPEC.md section 8.3
MIN_CHUNK_BYTES: Final = 16 * KIB
MAX_CHUNK_BYTES: Final = 4 * MIB - 64 * KIB  # a chunk fits one message
ELEMENT_CHUNKS: Final = 1 << 24  # of one element: 16 TiB in chunks of 1 MiB, and 512 MiB of hashes
SPANS: Final = 4096  # in one fetch request: a request is small
STREAM_BUFFER_BYTES: Final = 64 * MIB  # for all streams of a node together; shared out among them
SMALL_CONTENT_BYTES: Final = 256 * KIB  # comes with its description: a second call would cost more than the bytes
STREAM_MESSAGE_BYTES: Final = 1 * MIB
STREAM_WINDOW_BYTES: Final = 8 * MIB  # sent and not yet read: fills a line of 1 Gbit/s at 60 ms
MIN_STREAM_MESSAGE_BYTES: Final = 64 * KIB

# Time, in seconds.
CLOCK_SKEW: Final = 120  # how wrong an honest clock may be
CALL_TIMEOUT: Final = 20  # a small call
PUBLISH_TIMEOUT: Final = 300  # a stream of publishes; what is not acknowledged by then is sent again
STREAM_TIMEOUT: Final = 24 * HOUR  # a long transfer; it is resumed after that
STREAM_STALL: Final = 60  # without a byte: the other side is gone
PASS_LIFE: Final = 600  # what a stolen pass is good for
CERTIFICATE_LIFE: Final = 7 * DAY
KEY_OVERLAP: Final = 1 * HOUR  # how long a previous identity key counts after a new one: what is being signed just then
CERTIFICATE_BACKDATE: Final = 1 * HOUR  # so that a clock that is a little slow still accepts it
INVITATION_LIFE: Final = 24 * HOUR
RECORD_TIME_TO_LIVE: Final = 300
RECORD_TIME_TO_LIVE_MOST: Final = 1 * DAY  # whatever a record says: its owner cannot silence a later one for long
MEMBERSHIP_REFRESH: Final = 3  # while the registry is reachable; a suspension bites this late at most
MEMBERSHIP_LIFE: Final = 24 * HOUR  # how long a node goes on with what it last knew

# Fairness.
STREAMS: Final = 512  # open on one node
STREAMS_PER_PEER: Final = 256
CALLS_PER_PEER: Final = 200  # a second, sustained
CALLS_PER_PEER_BURST: Final = 2000
CONNECTION_AGE: Final = 1 * HOUR  # after which a peer must show its certificate again

# Papers.
OWN_POLICY_BYTES: Final = 8 * KIB  # of one; with the next, keeps what parses it from running out of stack
OWN_POLICY_DEPTH: Final = 100  # brackets in brackets
OWN_POLICIES_BYTES: Final = 1 * MIB  # of all policies/*.cedar together: they are read by people, and checked at once
GRANT_CHAIN: Final = 8  # grants narrowed one from the other: each is verified and counted at every use
REQUESTS_WAITING: Final = 50  # of one organization at one owner: people read them
GRANTS_A_DAY: Final = 1000  # automatic ones for one object to one organization: more decides a person
GRANTS_NARROWED: Final = 1000  # below one grant of the owner's, at the owner's node
GRANT_FILE_BYTES: Final = 1 * MIB  # a narrowed grant with all above it, as it is handed over

# Deliveries and receipts. SPEC.md section 17.
ACCOUNT_WINDOW_BYTES: Final = 64 * MIB  # counted ahead of what is served: what a crash charges too much, at most
ACCOUNT_WINDOW_UNITS: Final = 4096  # elements or runs of chunks in a window: small files weigh by their number
DELIVERY_PARTS: Final = 2048  # separate parts of one delivery: its receipt fits an envelope
DELIVERY_LIFE: Final = 24 * HOUR  # after which a fetch that goes on counts as another
SETTLED_AT_ONCE: Final = 256  # papers in one Settle
SETTLE_WAIT: Final = 3  # seconds that a fetch waits for the other side's signature
DELETIONS_SPARE: Final = 100  # under one grant, beyond its fetches: of copies that were begun, and nothing came
HALF_AFTER: Final = 60  # seconds without a settlement after which the owner signs alone
