"""The tables of a store in PostgreSQL, by format number; made and migrated by `freshet store init`."""

from __future__ import annotations

import re

import psycopg

from service.cluster.store.seam import StoreRefused

DEFAULT_SCHEMA = "freshet"
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")

# Number n holds the statements that lead from format n to n + 1; {schema} is replaced. Format 0 has only the table of
# the number. Bytes are stored out of line and as they are: the journal does not compress.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE {schema}.shards (shard integer PRIMARY KEY, epoch bigint NOT NULL);
    CREATE TABLE {schema}.entries (
        shard integer, "offset" bigint, epoch bigint NOT NULL, data bytea NOT NULL, PRIMARY KEY (shard, "offset"));
    CREATE TABLE {schema}.named (name text COLLATE "C" PRIMARY KEY, data bytea NOT NULL);
    ALTER TABLE {schema}.entries ALTER COLUMN data SET STORAGE EXTERNAL;
    ALTER TABLE {schema}.named ALTER COLUMN data SET STORAGE EXTERNAL;
    """,
)
FORMAT = len(MIGRATIONS)


def checked_schema(url: str, name: str) -> str:
    """Return the name of a schema, which needs no quotes in a statement. Raises StoreRefused."""
    if not _SCHEMA.fullmatch(name):
        raise StoreRefused(f"{url}: schema = {name!r}: use a-z, 0-9 and '_', at most 63 characters")
    return name


def found_format(connection: psycopg.Connection, schema: str) -> int | None:
    """Return the format of the tables in a schema; None if there are none. Raises psycopg.Error."""
    known = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (f"{schema}.format",)).fetchone()
    if not known or not known[0]:
        return None
    row = connection.execute(_sql("SELECT number FROM {schema}.format", schema)).fetchone()
    return int(row[0]) if row else None


def check_format(connection: psycopg.Connection, schema: str, url: str) -> None:
    """Raise StoreRefused with the remedy unless the tables have the format of this version of freshet."""
    found = found_format(connection, schema)
    if found is None or found < FORMAT:
        seen = "has no tables of freshet" if found is None else f"has tables of format {found}, older than {FORMAT}"
        raise StoreRefused(f"{url}: schema {schema} {seen}; run: freshet store init URL")
    if found > FORMAT:
        raise StoreRefused(
            f"{url}: schema {schema} has tables of format {found}; this version of freshet knows format {FORMAT}: "
            "run the version that made them"
        )


def migrate(connection: psycopg.Connection, schema: str) -> list[int]:
    """Make the tables, or bring them to this version's format, in one transaction; return the numbers of the steps.

    Raises psycopg.Error, with nothing changed. Two that run at once wait for each other.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"freshet.{schema}",))
        found = found_format(connection, schema)
        if found is None:
            if not _exists(connection, schema):  # IF NOT EXISTS needs the right to create even if it exists
                connection.execute(_sql("CREATE SCHEMA {schema}", schema))
            connection.execute(_sql("CREATE TABLE {schema}.format (number integer NOT NULL)", schema))
            connection.execute(_sql("INSERT INTO {schema}.format VALUES (0)", schema))
        steps = list(range(found or 0, FORMAT))
        for step in steps:
            connection.execute(_sql(MIGRATIONS[step], schema))
            connection.execute(_sql("UPDATE {schema}.format SET number = number + 1", schema))
    return steps


def _exists(connection: psycopg.Connection, schema: str) -> bool:
    return connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone() is not None


def _sql(statement: str, schema: str) -> bytes:
    """Return a statement for a schema whose name was checked. psycopg takes only literal text, but any bytes."""
    return statement.replace("{schema}", schema).encode()
