"""Read the expiry of a certificate. Nothing else of it is needed, so this does without a library."""

from __future__ import annotations

import datetime as dt
import ssl

VERSION, UTC_TIME = 0xA0, 0x17  # tags (ITU-T X.690): an optional field, and a date with a two-digit year
END = "-----END CERTIFICATE-----"


def expiry(pem: bytes) -> float:
    """Return `notAfter` of the first certificate in a PEM file: seconds since 1970 (RFC 5280, 4.1).

    Raises ValueError.
    """
    text = pem.decode("ascii", errors="replace")
    first, end, _ = text[max(0, text.find("-----BEGIN CERTIFICATE")) :].partition(END)
    der = ssl.PEM_cert_to_DER_cert(first + end)
    try:
        _, certificate, _ = element(der, 0)
        _, at, _ = element(der, certificate)  # its signed part
        tag, _, after = element(der, at)
        if tag == VERSION:
            at = after
        for _ in ("serial number", "algorithm", "issuer"):
            at = element(der, at)[2]
        _, not_before, _ = element(der, at)  # validity
        tag, start, after = element(der, element(der, not_before)[2])
    except IndexError:
        raise ValueError("the certificate ends too early") from None
    date = der[start:after].decode("ascii")
    if tag == UTC_TIME:
        date = ("19" if date[:2] >= "50" else "20") + date
    return dt.datetime.strptime(date, "%Y%m%d%H%M%SZ").replace(tzinfo=dt.UTC).timestamp()


def element(der: bytes, at: int) -> tuple[int, int, int]:
    """Return the tag of the element at `at`, and the start and end of its content. Raises IndexError."""
    tag, length, start = der[at], der[at + 1], at + 2
    if length >= 0x80:  # the low bits count the bytes of the length
        start += length - 0x80
        length = int.from_bytes(der[at + 2 : start], "big")
    if start + length > len(der):
        raise IndexError
    return tag, start, start + length
