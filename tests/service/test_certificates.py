"""Certificates replaced while the server reads them."""

from __future__ import annotations

import os
import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from service.access.credentials import Certificates
from service.common.limits import MAX_PEM_BYTES
from service.observe.metrics import Metrics
from tests.client.certificates import Authority


def test_a_key_replaced_between_two_reads_is_used_once_it_fits(monkeypatch, tmp_path):
    metrics, authority = Metrics(CollectorRegistry()), Authority(tmp_path)
    (cert, key), (next_cert, next_key) = authority.sign("old"), authority.sign("new")
    certificates = Certificates(cert, key, None, metrics.access)
    before, load = certificates._watched.current, ssl.SSLContext.load_cert_chain
    keys = iter([next_key, authority.sign("third")[1]])  # at the first read, and at the second

    def replaced(context: ssl.SSLContext, *files: Any, **how: Any) -> None:
        shutil.copy(next(keys, next_key), key)
        load(context, *files, **how)

    shutil.copy(next_cert, cert)
    with monkeypatch.context() as patched:
        patched.setattr(ssl.SSLContext, "load_cert_chain", replaced)
        certificates.look()
        assert certificates._watched.current == before
        assert metrics.registry.get_sample_value("freshet_file_invalid", {"file": "certificate"}) == 1

    shutil.copy(next_key, key)
    certificates.look()
    assert certificates._watched.current.cert == next_cert.read_bytes()
    assert metrics.registry.get_sample_value("freshet_file_invalid", {"file": "certificate"}) == 0


def test_a_missing_certificate_changes_nothing(tmp_path):
    metrics = Metrics(CollectorRegistry())
    cert, key = Authority(tmp_path).sign("old")
    certificates = Certificates(cert, key, None, metrics.access)
    before = certificates._watched.current

    cert.unlink()
    certificates.look()

    assert certificates._watched.current == before
    assert metrics.registry.get_sample_value("freshet_file_invalid", {"file": "certificate"}) == 1


def test_a_pair_that_does_not_fit_at_the_start_is_refused(tmp_path):
    authority = Authority(tmp_path)
    (cert, _), (_, key) = authority.sign("one"), authority.sign("other")
    with pytest.raises(ValueError, match=f"tls_key = {key}"):
        Certificates(cert, key, None, Metrics(CollectorRegistry()).access)


@pytest.mark.parametrize("which", ["cert", "key", "ca"])
@pytest.mark.parametrize("bad", [b"", b"\0" * 1000, b"-----BEGIN CERTIFICATE-----\n", bytes(MAX_PEM_BYTES + 1), "pipe"])
def test_a_file_that_is_no_certificate_changes_nothing(tmp_path, which, bad):
    metrics, authority = Metrics(CollectorRegistry()), Authority(tmp_path)
    cert, key = authority.sign("old")
    files = {"cert": cert, "key": key, "ca": Path(shutil.copy(authority.pem, tmp_path / "ca.pem"))}
    certificates = Certificates(cert, key, files["ca"], metrics.access)
    before = certificates._watched.current

    files[which].unlink()
    if isinstance(bad, bytes):
        files[which].write_bytes(bad)
    else:
        os.mkfifo(files[which])
    certificates.look()

    assert certificates._watched.current == before
    assert metrics.registry.get_sample_value("freshet_file_invalid", {"file": "certificate"}) == 1
