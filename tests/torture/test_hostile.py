"""Hostile bytes give documented errors, bounded memory and no crash; servers and decoders without that are detected."""

from __future__ import annotations

import mmap
from collections import deque

import numpy as np
import pytest

from service.edge import wire
from tests.journeys.crash import mutate
from tests.torture import hostile
from tests.torture.decoders import Decoder


def test_hostile_messages_on_every_decoder_and_on_the_port_do_no_harm():
    found = hostile.run(quick=True)

    print(found["summary"])
    assert found["findings"] == []
    assert sum(found["messages"].values()) > 10_000
    assert found["messages"]["on the port"] > 100


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_million_hostile_messages_do_no_harm():
    # `dev.py torture` attacks the port six times as long, and fuzzes two and a half times as long.
    found = hostile.run(quick=False, attack_s=5.0, fuzzed=100_000)

    print(found["summary"])
    assert found["findings"] == []
    assert sum(found["messages"].values()) > hostile.MESSAGES


def unchecked(message, channels):
    """`wire.columns` without its checks."""
    handle, seq = np.frombuffer(message.handle, "<u4"), np.frombuffer(message.seq, "<u8")
    x = np.frombuffer(message.x, "<f4").reshape(-1, channels)
    return wire.Columns(handle, seq, x, np.frombuffer(message.time, "<f8"))


def test_a_decoder_that_raises_an_undocumented_error_is_detected(tmp_path, monkeypatch):
    monkeypatch.setattr(wire, "columns", unchecked)

    findings = hostile.on_decoders(tmp_path, quick=True)["findings"]

    assert {finding.partition(":")[0] for finding in findings} == {"Mux"}


def test_a_decoder_that_keeps_its_input_is_detected(tmp_path, monkeypatch):
    kept: deque[mmap.mmap] = deque()

    def hoards(data: bytes) -> bool:
        kept.append(mmap.mmap(-1, 8192))  # pages of its own: the allocator may have as much memory that was used before
        kept[-1].write(b"x" * 8192)
        return False

    monkeypatch.setattr(hostile, "decoders", lambda folder: {"hoard": Decoder(hoards, [b"sound"])})

    assert any("grew by" in finding for finding in hostile.on_decoders(tmp_path, quick=True)["findings"])


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_server_that_fails_on_a_message_is_detected(tmp_path, monkeypatch):
    mutate(monkeypatch, tmp_path, TRIPS)

    found = await hostile.on_port(tmp_path, 0.5, ["mutated messages"])

    assert any("UNKNOWN" in finding for finding in found["findings"]), found


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_server_that_keeps_what_its_calls_bring_is_detected(tmp_path, monkeypatch):
    mutate(monkeypatch, tmp_path, KEEPS)

    found = await hostile.on_port(tmp_path, 0.2, ["mutated messages"])

    assert any("the server grew by" in finding for finding in found["findings"]), found


TRIPS = """
import sys
if "service.cli" in sys.orig_argv:
    from service.edge import wire
    def columns(message, channels):
        return 1 / 0
    wire.columns = columns
"""

# An attack makes at least 160 calls, of which 64 suffice.
KEEPS = """
import sys
if "service.cli" in sys.orig_argv:
    from service.edge.guard.strangers import Strangers
    kept, inner = [], Strangers.admit
    def admit(self, peer):
        kept.append(b"x" * (1 << 20))
        inner(self, peer)
    Strangers.admit = admit
"""
