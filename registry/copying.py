"""A registry's records from one store into another, entry by entry: to move it, to back it up, to restore it.

What is read is of one moment, or nobody writes there: while a registry is moved its file is read-only (``moving`` in
it, which every writing transaction looks at), and a daemon that runs goes on answering, and refuses to publish and to
join with an error that is worth trying again. It is not said to be done before both stores have the same entries under
the same root, and the same beside them. Killed at any moment, the source is what it was; begun again, it goes on behind
what the target has, if that is the beginning of it.

    copy(source, target, authority, now)

What it is not: the settings. Whoever calls has the home use the target, after that.
"""

from collections.abc import Sequence

from hanse.errors import Conflict, StorageFailed
from hanse.model.organization import Authority
from registry.accept import Stored
from registry.checking import entries
from registry.history import Entry, History
from registry.importing import put
from registry.storage.base import Head, NewRecord, Storage, Writing, transact
from registry.storage.scratch import Scratch
from registry.usage import Limits

_OTHER = "the store has entries of another registry, or somebody else writes to it: take an empty one"


def copy(source: Storage, target: Storage, authority: Authority, now: int) -> Head:
    """The log that both have then. Raises Conflict for a target with anything else in it, StorageFailed."""
    head, done = source.head(), target.head()
    if done.size > head.size:
        raise Conflict(_OTHER)
    history, scratch = History(authority, now, signatures=False), Scratch()
    try:
        for size, after in ((done.size, 0), (head.size, done.size)):
            for changes in entries(source, size, after):
                followed = history.follow(changes, scratch.known)
                scratch.put(
                    (each.content.key, Stored(each.content.version, each.content.digest, each.content.document is None))
                    for each in followed
                    if isinstance(each.content, NewRecord)
                )
                if after or not done.size:
                    _append(target, followed)
            if size == done.size and history.tree.root() != done.root:
                raise Conflict(_OTHER)
    finally:
        history.close()
        scratch.close()
    transact(target, lambda writing: _put_rest(source, writing, history, now))
    _expect_same(source, target)
    return head


def _append(target: Storage, followed: Sequence[Entry]) -> None:
    def append(writing: Writing) -> None:
        size = writing.head().size
        if size == followed[-1].position:
            return  # it was stored, and the answer was lost
        if size != followed[0].position - 1:
            raise Conflict(_OTHER)
        put(writing, followed)

    transact(target, append)


def _put_rest(source: Storage, writing: Writing, history: History, now: int) -> None:
    """What is in no entry. All of it may be there already."""
    version, members = source.membership()
    for member in members:
        writing.put_member(member, history.joined.get(member.prefix, now))
    for secret_hash, invitation in source.invitations():
        if writing.invitation(secret_hash) is None:
            writing.put_invitation(secret_hash, invitation, now)
    for prefix, usage in source.usages().items():
        writing.put_pace(prefix, usage.paid_until)
        if usage.limits != Limits():
            writing.put_limits(prefix, usage.limits)
    for name, value in source.texts().items():
        writing.remember(name, value)
    writing.remember("membership_version", str(version))


def _expect_same(source: Storage, target: Storage) -> None:
    one, other = source.figures(), target.figures()
    hashes = {secret_hash for secret_hash, _ in source.invitations()}
    compared = (
        ("the log", source.head(), target.head()),
        ("the number of objects", one.objects, other.objects),
        ("the number of withdrawn objects", one.withdrawn, other.withdrawn),
        ("the membership", source.membership(), target.membership()),
        ("what each organization is counted with", source.usages(), target.usages()),
        ("the invitations", hashes, {secret_hash for secret_hash, _ in target.invitations()}),
    )
    for what, own, copied in compared:
        if own != copied:
            raise StorageFailed(
                f"{what} is another one in the new store: see what `hanse-registry check` says of the old one; if it "
                "finds nothing, empty the new one and run it again"
            )
