"""Certificates for tests, made by openssl: an authority, and what it signs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """One certificate authority, with all its files in a folder. Skips the test where there is no openssl."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        self._folder, self.name = folder, name
        self.pem = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        self._openssl(
            "req", "-x509", *KEY, "-keyout", self._key, "-out", self.pem, "-days", "2", "-subj", f"/CN={name}"
        )

    def sign(self, name: str, *, host: str = "localhost", days: int = 2) -> tuple[Path, Path]:
        """A certificate for a host, valid from now for so many days (negative: not any more), and its key."""
        certificate, key = self._folder / f"{self.name}-{name}.pem", self._folder / f"{self.name}-{name}.key"
        request, extensions = certificate.with_suffix(".csr"), certificate.with_suffix(".ext")
        extensions.write_text(f"subjectAltName = DNS:{host}, IP:127.0.0.1" if host == "localhost" else
                              f"subjectAltName = DNS:{host}")  # fmt: skip
        self._openssl("req", *KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        self._openssl("x509", "-req", "-in", request, "-CA", self.pem, "-CAkey", self._key, "-CAcreateserial",
                      "-days", days, "-extfile", extensions, "-out", certificate)  # fmt: skip
        return certificate, key

    def _openssl(self, *words: object) -> None:
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)
