"""A store in PostgreSQL: an entry is a row, its key (shard, offset), the shard's epoch checked in the same statement.

The row of the shard is locked while an entry is added, so that a claim waits for it, and it for a claim. Every commit
waits for the disk, and for a standby where the server says so; a row that a repeated call finds is written once more,
because only a commit of our own proves that everything before it is durable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Any, LiteralString

from psycopg.errors import UniqueViolation

from service.cluster.store.connections import Connections
from service.cluster.store.names import checked
from service.cluster.store.schema import check_format, migrate
from service.cluster.store.seam import Conflict, Extent, Listed, Missing, StoreLost

READ_BYTES, READ_ROWS = 4 << 20, 256  # of one statement that reads entries
TRIM_ROWS = 1_000  # of one statement, so that it ends in time
AFTER = "\x7f"  # comes after every character of a name

APPEND: LiteralString = """
    INSERT INTO {schema}.entries SELECT %(shard)s, %(offset)s, %(epoch)s, %(data)b
    WHERE EXISTS (SELECT FROM {schema}.shards WHERE shard = %(shard)s AND epoch = %(epoch)s FOR SHARE)
    ON CONFLICT DO NOTHING"""
CLAIM: LiteralString = """
    WITH moved AS (
        INSERT INTO {schema}.shards AS old SELECT %(shard)s, %(epoch)s
        WHERE NOT EXISTS (SELECT FROM {schema}.entries WHERE shard = %(shard)s AND "offset" >= %(offset)s)
        ON CONFLICT (shard) DO UPDATE SET epoch = excluded.epoch WHERE old.epoch < excluded.epoch RETURNING shard)
    INSERT INTO {schema}.entries SELECT shard, %(offset)s, %(epoch)s, %(data)b FROM moved"""
SAME_ENTRY: LiteralString = """
    UPDATE {schema}.entries SET epoch = epoch
    WHERE shard = %(shard)s AND "offset" = %(offset)s AND data = %(data)b"""
EXTENTS: LiteralString = """
    SELECT "offset", octet_length(data) FROM {schema}.entries
    WHERE shard = %(shard)s AND "offset" >= %(start)s ORDER BY "offset" """
READ: LiteralString = """
    SELECT "offset", data FROM {schema}.entries WHERE shard = %(shard)s AND "offset" = ANY(%(offsets)s)"""
TRIM: LiteralString = """
    DELETE FROM {schema}.entries WHERE shard = %(shard)s AND "offset" IN (
        SELECT "offset" FROM {schema}.entries
        WHERE shard = %(shard)s AND "offset" < %(before)s AND "offset" <> ALL(%(keep)s)
        ORDER BY "offset" LIMIT %(rows)s)"""
PUT: LiteralString = "INSERT INTO {schema}.named VALUES (%(name)s, %(data)b) ON CONFLICT DO NOTHING"
SAME_BLOB: LiteralString = "UPDATE {schema}.named SET name = name WHERE name = %(name)s AND data = %(data)b"
NOTE: LiteralString = """
    INSERT INTO {schema}.named VALUES (%(name)s, %(data)b) ON CONFLICT (name) DO UPDATE SET data = excluded.data"""
GET: LiteralString = "SELECT data FROM {schema}.named WHERE name = %(name)s"
LIST: LiteralString = """
    SELECT name, octet_length(data) FROM {schema}.named
    WHERE name >= %(prefix)s AND name < %(after)s ORDER BY name"""
DELETE: LiteralString = "DELETE FROM {schema}.named WHERE name = ANY(%(names)s)"


class Postgres:
    """A store in a schema of a database. Raises StoreRefused if `initialise` has not made its tables, StoreUnavailable.

    url: postgresql://USER:PASSWORD@HOST:PORT/DATABASE with ?schema= and the settings of libpq.
    """

    def __init__(self, url: str) -> None:
        self._connections = Connections(url)
        self.url, self._schema = self._connections.url, self._connections.schema
        with self._connections.taken() as connection:
            check_format(connection, self._schema, self.url)

    def append(self, shard: int, offset: int, epoch: int, data: bytes) -> None:
        """Add an entry; see `Store.append`."""
        entry = {"shard": shard, "offset": offset, "epoch": epoch, "data": data}
        if not self._run(APPEND, entry) and not self._run(SAME_ENTRY, entry):
            raise Conflict(f"{self.url}: shard {shard}, offset {offset} is taken, or epoch {epoch} is not the shard's")

    def claim(self, shard: int, offset: int, epoch: int, data: bytes) -> None:
        """Add the first entry of an epoch; see `Store.claim`."""
        entry = {"shard": shard, "offset": offset, "epoch": epoch, "data": data}
        try:
            if self._run(CLAIM, entry):
                return
        except UniqueViolation:
            pass
        if not self._run(SAME_ENTRY, entry):
            raise Conflict(
                f"{self.url}: shard {shard} has entries from offset {offset} on, or its epoch is {epoch} or more"
            )

    def extents(self, shard: int, start: int) -> list[Extent]:
        """Return the entries from `start` on; see `Store.extents`."""
        return [Extent(*row) for row in self._rows(EXTENTS, {"shard": shard, "start": start})]

    def read(self, shard: int, extents: Sequence[Extent]) -> Iterator[bytes]:
        """Yield the bytes of entries; see `Store.read`."""
        for part in _parts(extents):
            rows = self._rows(READ, {"shard": shard, "offsets": [extent.offset for extent in part]})
            found: dict[int, bytes] = dict(rows)
            for offset, size in part:
                data = found.get(offset)
                if data is None or len(data) != size:
                    seen = "is gone" if data is None else f"has {len(data)} bytes instead of {size}"
                    raise StoreLost(f"{self.url}: the entry of shard {shard} at offset {offset} {seen}")
                yield data

    def trim(self, shard: int, before: int, keep: Set[int]) -> int:
        """Delete entries; see `Store.trim`."""
        values = {"shard": shard, "before": before, "keep": list(keep), "rows": TRIM_ROWS}
        total = 0
        while deleted := self._run(TRIM, values):
            total += deleted
        return total

    def put(self, name: str, data: bytes) -> None:
        """Store a blob; see `Store.put`."""
        blob = {"name": checked(name), "data": data}
        if not self._run(PUT, blob) and not self._run(SAME_BLOB, blob):
            raise Conflict(f"{self.url}: {name} is taken by other bytes")

    def note(self, name: str, data: bytes) -> None:
        """Write a note; see `Store.note`."""
        self._run(NOTE, {"name": checked(name), "data": data})

    def get(self, name: str) -> bytes:
        """Return a blob or note; see `Store.get`."""
        for row in self._rows(GET, {"name": checked(name)}):
            return bytes(row[0])
        raise Missing(f"{self.url}: there is no {name}")

    def list(self, prefix: str) -> list[Listed]:
        """Return blobs and notes; see `Store.list`."""
        return [Listed(*row) for row in self._rows(LIST, {"prefix": prefix, "after": prefix + AFTER})]

    def delete(self, names: Sequence[str]) -> None:
        """Delete blobs or notes; see `Store.delete`."""
        self._run(DELETE, {"names": [checked(name) for name in names]})

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def _run(self, statement: str, values: dict[str, Any]) -> int:
        """Run a statement in a transaction of its own; return the number of its rows."""
        with self._connections.taken() as connection:
            return connection.execute(self._sql(statement), values).rowcount

    def _rows(self, statement: str, values: dict[str, Any]) -> Sequence[tuple[Any, ...]]:
        with self._connections.taken() as connection:
            return connection.cursor(binary=True).execute(self._sql(statement), values).fetchall()

    def _sql(self, statement: str) -> bytes:
        return statement.replace("{schema}", self._schema).encode()  # its name was checked


def initialise(url: str) -> Sequence[int]:
    """Make the tables in the schema of a URL, or migrate them; return the numbers of the steps, none if all is there.

    Raises StoreRefused, StoreUnavailable.
    """
    connections = Connections(url)
    try:
        with connections.taken() as connection:
            steps = migrate(connection, connections.schema)
            check_format(connection, connections.schema, connections.url)
            return steps
    finally:
        connections.close()


def _parts(extents: Sequence[Extent]) -> Iterator[list[Extent]]:
    """Cut a sequence into parts of READ_ROWS entries or READ_BYTES at most, or one entry."""
    part: list[Extent] = []
    for extent in extents:
        if part and (len(part) == READ_ROWS or sum(e.size for e in part) + extent.size > READ_BYTES):
            yield part
            part = []
        part.append(extent)
    if part:
        yield part
