"""URLs of stores: which package each loads, and how settings that cannot work are refused."""

import subprocess
import sys
import uuid

import pytest

from service.cluster.store import objects
from service.cluster.store.opening import open_store
from service.cluster.store.seam import StoreRefused, StoreUnavailable
from tests.conftest import ROOT
from tests.engines.process import free_ports

LOADED = """
import importlib, pkgutil, sys
import service.server
for module in pkgutil.iter_modules(service.server.__path__):
    importlib.import_module(f"service.server.{module.name}")
from service.cluster.store.opening import open_store
open_store(sys.argv[1]).close()
print(sorted({"obstore", "psycopg", "psycopg_binary"} & {name.partition(".")[0] for name in sys.modules}))
"""


def test_a_server_on_a_folder_loads_no_package_of_another_engine(tmp_path):
    command = [sys.executable, "-c", LOADED, tmp_path.as_uri()]
    assert subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout == "[]\n"


@pytest.mark.parametrize(("url", "extra"), [("s3://bucket/prefix", "object"), ("postgresql://host/x", "postgres")])
def test_a_package_that_is_missing_is_named_with_the_remedy(monkeypatch, url, extra):
    for name in ("objects", "postgres", "connections", "schema"):
        monkeypatch.delitem(sys.modules, f"service.cluster.store.{name}", raising=False)
    for package in ("obstore", "psycopg"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StoreRefused, match=rf"pip install 'freshet-server\[{extra}\]'"):
        open_store(url)


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("s3://bucket/prefix?access_key_id=AKIA", "access_key_id is no setting of the URL; use ca, endpoint, region"),
        ("gs://bucket?endpoint=http://x", "endpoint is no setting of the URL; use base_url, ca"),
        ("az://container?secret=x", "secret is no setting of the URL; use account_name, ca, endpoint"),
        ("s3:///prefix", "write s3://BUCKET/PREFIX"),
    ],
)
def test_settings_that_a_bucket_does_not_know_are_refused(url, remedy):
    with pytest.raises(StoreRefused, match=remedy):
        open_store(url)


@pytest.mark.parametrize("url", ["gs://bucket/a?base_url=http://127.0.0.1:1", "az://container/a?account_name=x"])
def test_every_service_can_be_opened_without_a_request(url, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")
    open_store(url).close()


def test_credentials_that_the_bucket_refuses_are_refused_with_a_remedy(seaweed, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    store = open_store(seaweed.url(uuid.uuid4().hex))
    for call in (lambda: store.append(0, 0, 1, b"x"), lambda: store.list(""), lambda: store.get("cluster")):
        with pytest.raises(StoreRefused, match=r"SignatureDoesNotMatch.*give the server credentials"):
            call()
    store.close()


def test_a_bucket_that_does_not_exist_is_refused(seaweed):
    store = open_store(f"s3://none?endpoint=http://127.0.0.1:{seaweed.port}")
    with pytest.raises(StoreRefused, match="there is no such bucket"):
        store.get("cluster")
    store.close()


def test_a_bucket_that_cannot_be_reached_is_unavailable_and_the_text_is_short(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    store = open_store(f"s3://bucket?endpoint=http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(StoreUnavailable) as caught:
        store.append(0, 0, 1, b"x")
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)
    store.close()


def test_an_object_that_is_deleted_while_a_put_finds_it_is_for_the_next_try(seaweed, monkeypatch):
    store = open_store(seaweed.url(uuid.uuid4().hex))
    store.put("blob", b"x")
    monkeypatch.setattr(objects.Objects, "_bytes", lambda self, name: None)
    with pytest.raises(StoreUnavailable, match="is taken, and nothing is found there"):
        store.put("blob", b"x")
    store.close()
