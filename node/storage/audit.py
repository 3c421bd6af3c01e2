"""The audit's table. node.audit says what a row is and when it is written."""

from collections.abc import Iterator, Sequence

from hanse.storage.database import Database
from node.audit import Decided, Row

_COLUMNS = "id, peer, key_id, object, version, operation, allowed, reason, at, bytes"


class AuditStorage:
    """See node.audit.AuditStorage."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def last_number(self) -> int:
        with self._database.reading() as connection:
            return int(connection.execute("SELECT coalesce(max(id), 0) FROM audit").fetchone()[0])

    def write(self, rows: Sequence[Row], served: Sequence[tuple[int, int]]) -> None:
        with self._database.writing() as connection:
            connection.executemany(
                f"INSERT OR IGNORE INTO audit ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        row.number, row.decided.peer, row.decided.key_id, row.decided.object, row.decided.version,
                        row.decided.operation, int(row.decided.allowed), row.decided.why, row.decided.at, row.served,
                    )
                    for row in rows
                ],
            )  # fmt: skip
            connection.executemany(
                "UPDATE audit SET bytes = ? WHERE id = ?", [(amount, number) for number, amount in served]
            )

    def query(self, peer: str | None, object_id: str | None, since: int | None, limit: int) -> Iterator[Row]:
        with self._database.reading() as connection:
            found = connection.execute(
                f"SELECT {_COLUMNS} FROM audit WHERE (?1 IS NULL OR peer = ?1) "
                "AND (?2 IS NULL OR object = ?2 COLLATE NOCASE) AND (?3 IS NULL OR at >= ?3) ORDER BY id DESC LIMIT ?4",
                (peer, object_id, since, limit),
            ).fetchall()
        for number, who, key_id, asked, version, operation, allowed, why, at, amount in found:
            yield Row(number, Decided(who, key_id, asked, version, operation, bool(allowed), why, at), amount)
