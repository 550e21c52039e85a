"""The expiry of a certificate, compared with openssl and the standard library."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from service.access.expiry import expiry
from tests.client.certificates import Authority


def told(path: Path) -> float:
    """The expiry as openssl reads it."""
    words = ["openssl", "x509", "-enddate", "-noout", "-in", str(path)]
    line = subprocess.run(words, capture_output=True, text=True, check=True, timeout=240).stdout
    return ssl.cert_time_to_seconds(line.strip().removeprefix("notAfter="))


# 2049 is the last year written with two digits.
@pytest.mark.parametrize("days", [2, 8000, 9000, 20_000])
def test_a_certificates_expiry_equals_that_of_openssl(tmp_path, days):
    certificate, _ = Authority(tmp_path).sign("server", days=days)

    assert expiry(certificate.read_bytes()) == told(certificate)


def test_the_first_certificate_of_a_chain_counts_after_any_text(tmp_path):
    authority = Authority(tmp_path)
    certificate, _ = authority.sign("server", days=5)
    chain = b"Bag Attributes: none\n" + certificate.read_bytes() + authority.pem.read_bytes()

    assert expiry(chain) == told(certificate) != told(authority.pem)


def test_an_invalid_certificate_raises_only_value_error(tmp_path):
    certificate, _ = Authority(tmp_path).sign("server")
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    cut = [der[:n] for n in range(200)]
    for broken in [b"", b"no PEM", *(ssl.DER_cert_to_PEM_cert(part).encode() for part in cut)]:
        with pytest.raises(ValueError):  # noqa: PT011  # the texts differ
            expiry(broken)
