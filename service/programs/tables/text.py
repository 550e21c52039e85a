"""From the bytes of a file to its text: UTF-8 or UTF-16, with or without a byte order mark."""

from __future__ import annotations

import codecs
from pathlib import Path

from service.programs.tables.times.errors import TableError

MAX_FILE_BYTES = 4 << 30  # of one table, which is read into memory as a whole
OTHER_FORMATS = (  # first bytes of a file, and its format
    (b"PK\x03\x04", "an Excel workbook or a zip archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"BZh", "compressed by bzip2"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (b"PAR1", "a Parquet file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x89HDF", "an HDF5 file"),
)


def read_text(path: str | Path) -> tuple[str, str]:
    """Return a file's text and the name of its encoding. Raises TableError, OSError."""
    file = Path(path)
    size = file.stat().st_size
    if size > MAX_FILE_BYTES:
        raise TableError("file", str(path), f"{size} bytes, at most {MAX_FILE_BYTES}: split it")
    return decode(file.read_bytes(), str(path))


def decode(data: bytes, name: str) -> tuple[str, str]:
    """Return the text of a file's bytes and the name of its encoding. name: for messages. Raises TableError."""
    for start, what in OTHER_FORMATS:
        if data.startswith(start):
            raise TableError("file", name, f"{what}, not a CSV file: save or unpack it as CSV in UTF-8")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding, shown = "utf-16", "UTF-16"
    elif data[:1] == b"\0" or data[1:2] == b"\0":
        raise TableError(
            "file", name, "every other byte is 0, as in UTF-16 without a byte order mark: save it as UTF-8"
        )
    else:
        encoding, shown = "utf-8-sig", "UTF-8"
    if data.lstrip()[:2] in (b"[{", b'{"', b"[["):
        raise TableError("file", name, "a JSON file, not a CSV file: convert it to CSV in UTF-8")
    try:
        return data.decode(encoding), shown
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        where = f"line {line}, byte {error.start}"
        raise TableError(
            "file", name, f"not a CSV file in {shown} ({where}: {error.reason}): save it as UTF-8"
        ) from None
