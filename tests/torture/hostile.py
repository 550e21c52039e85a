"""A million hostile messages, sent to every decoder of outside bytes and to the port of a real server.

Only documented errors may occur, memory must not grow, and a good client must get answers meanwhile.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import freshet
from service.programs.backtest.child import ServerChild
from tests import memory
from tests.journeys.scraped import scrape
from tests.journeys.used import measured
from tests.torture.decoders import SPEC, Decoder, decoders
from tests.torture.mutate import Mutator
from tests.torture.report import Part
from tests.torture.soak import MiB, Use

MAY_GROW = 64 * MiB
MESSAGES = 1_000_000  # to decoders: how many reach the port depends on the machine
FUZZED = 250_000  # of them by atheris
KEPT = 500  # accepted mutants, to mutate again
# Decoders that take 20 times as long as the others. They get a quarter as many messages.
SLOW = ("Create", "Put", "journal", "graph", "state_dict")
EDITS_FROM = 60  # bytes that say how a valid message is edited, in one to five places
ATTACKS = (
    "random bytes", "malformed frames", "rapid reset", "settings and pings", "huge headers", "indexed headers",
    "slow loris", "mutated messages",
)  # fmt: skip
# gRPC buffers a block of headers until it ends, without a setting to limit it: reported, not judged.
UNBOUNDED = "endless continuation"
UNBOUNDED_S = 2.0  # memory grows by about 140 MiB a second
# Small bounds, so that the memory that clients can occupy reaches its bound soon.
BOUNDS: dict[str, object] = {"max_models": 2, "max_streams": 1000, "handshake_s": 1.0, "max_connections": 300}
ROW = [1.0, 2.0]
ROOT = Path(__file__).parents[2]


def run(quick: bool, attack_s: float | None = None, fuzzed: int = FUZZED) -> dict[str, Any]:
    """Run everything, each attack on the port for `attack_s` seconds (default 30, quick 0.2).

    fuzzed: messages of the million that atheris makes, unless quick or not installed.
    Returns messages by origin; findings in words; growth_mib of this process and of the server; latency_ms, the median
    of a good client by attack; ratio, the largest median over the one without attack; unbounded, growth and ratio under
    the attack that gRPC does not bound; summary.
    """
    folder = Path(tempfile.mkdtemp(prefix="hostile-", dir=memory.folder()))
    try:
        inside = on_decoders(folder, quick, fuzzed)
        port = asyncio.run(on_port(folder, attack_s or (0.2 if quick else 30.0)))
    finally:
        shutil.rmtree(folder)
    messages, growth = inside["messages"] | port["messages"], inside["growth_mib"] | port["growth_mib"]
    findings, latency, unbounded = inside["findings"] + port["findings"], port["latency_ms"], port["unbounded"]
    worst = max(ATTACKS, key=latency.__getitem__)
    ratio = latency[worst] / latency["quiet"]
    summary = (
        f"{sum(messages.values())} hostile messages ({', '.join(f'{n} {way}' for way, n in messages.items())}): "
        f"{len(findings)} findings; memory grew by {', '.join(f'{mib:.0f} MiB ({of})' for of, mib in growth.items())}; "
        f"a good client's median was {latency['quiet']:.2f} ms, at worst {ratio:.1f} times that ({worst}); not bounded "
        f"by gRPC: {UNBOUNDED}, {unbounded['mib']:.0f} MiB at its peak, {unbounded['ratio']:.0f} times"
    )
    return {
        "messages": messages, "findings": findings, "growth_mib": growth, "latency_ms": latency, "ratio": ratio,
        "unbounded": unbounded, "summary": summary,
    }  # fmt: skip


# ---- decoders


def part(folder: Path, quick: bool) -> Part:
    """Run as a part of `dev.py torture`. Each message is a round and a hit."""
    found = run(quick)
    total = sum(found["messages"].values())
    numbers = {name: found[name] for name in ("messages", "growth_mib", "latency_ms", "ratio", "unbounded")}
    return Part(total, total, wrong=found["findings"], numbers=numbers, summary=found["summary"])


def on_decoders(folder: Path, quick: bool, fuzzed: int = FUZZED) -> dict[str, Any]:
    """Feed hostile messages to every decoder in this process, and with atheris, if installed, in another."""
    (folder / "files").mkdir()
    every = decoders(folder / "files")
    findings: list[str] = []
    messages = Counter({"generated": generated(every, 200 if quick else 20_000, findings)})  # hypothesis stores them
    growth: dict[str, float] = {}
    if importlib.util.find_spec("atheris") is None:
        print("hostile: atheris is not installed: no fuzzing by coverage")
    elif not quick:
        messages["by atheris"], growth["under atheris"] = by_atheris(folder, fuzzed, findings)
    mutated(every, random.Random(1), 2000, findings)  # one-time allocations happen here
    before = Use.of(os.getpid()).rss
    wanted = 10_000 if quick else MESSAGES - sum(messages.values())
    messages["mutated"] = mutated(every, random.Random(2), wanted, findings)
    growth["decoders"] = (Use.of(os.getpid()).rss - before) / MiB
    findings += [f"{what} grew by {mib:.0f} MiB" for what, mib in growth.items() if mib * MiB > MAY_GROW]
    return {"messages": messages, "findings": findings, "growth_mib": growth}


def generated(every: Mapping[str, Decoder], examples: int, findings: list[str]) -> int:
    """Feed messages from hypothesis: any bytes, or a valid message with random edits. Returns their number."""
    made = 0
    # Edits are read from one drawing of bytes: lists of tuples cost five times as much as the decoders.
    messages = st.sampled_from([(name, sound) for name, decoder in every.items() for sound in (b"", *decoder.sound)])

    @settings(max_examples=examples, phases=[Phase.generate], database=None, derandomize=True, deadline=None)
    @given(messages, st.binary(min_size=4, max_size=300))
    def feed(of: tuple[str, bytes], drawn: bytes) -> None:
        nonlocal made
        made += 1
        name, sound = of
        try_one(every, name, edited(sound, drawn) if sound else drawn, findings)

    feed()
    return made


def edited(message: bytes, drawn: bytes) -> bytes:
    """Return the message after edits read from `drawn`: place (two bytes), bytes to remove, bytes to insert, those."""
    drawn = drawn[:EDITS_FROM]
    while len(drawn) >= 4:
        at, removed, put = int.from_bytes(drawn[:2], "little") % (len(message) + 1), drawn[2] % 21, drawn[3] % 21
        put = put or not removed  # so that something changes
        message = message[:at] + drawn[4 : 4 + put] + message[at + removed :]
        drawn = drawn[4 + put :]
    return message


def mutated(every: Mapping[str, Decoder], rng: random.Random, total: int, findings: list[str]) -> int:
    """Feed mutants of valid messages and of accepted mutants. Returns their number."""
    mutator = Mutator(rng)
    pools = {name: list(decoder.sound) for name, decoder in every.items()}
    turns = [name for turn in range(4) for name in every if turn == 0 or name not in SLOW]
    for name in itertools.islice(itertools.cycle(turns), total):
        pool = pools[name]
        data = mutator.mutated_message(rng.choice(pool))
        if try_one(every, name, data, findings):
            if len(pool) < KEPT:
                pool.append(data)
            else:
                pool[rng.randrange(len(every[name].sound), KEPT)] = data
    return total


def try_one(every: Mapping[str, Decoder], name: str, data: bytes, findings: list[str]) -> bool:
    """Return whether the message is accepted. An undocumented exception is a finding."""
    try:
        return every[name].read(data)
    except Exception as error:
        findings.append(f"{name}: {type(error).__name__}: {error}: {data.hex()}")
        return False


def by_atheris(folder: Path, runs: int, findings: list[str]) -> tuple[int, float]:
    """Run the decoders under atheris in a process of its own. Returns the number of messages and its growth in MiB."""
    (folder / "fuzz").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture.fuzz", str(runs), str(folder / "fuzz"), f"-artifact_prefix={folder}/"],
        capture_output=True, text=True, timeout=3600, cwd=ROOT,
    )  # fmt: skip
    if done.returncode:
        findings.append(f"under atheris: {done.stderr[-2000:]}")
    rss = [int(mib) for mib in re.findall(r"rss: (\d+)Mb", done.stderr)]
    counts = [int(n) for n in re.findall(r"^#(\d+)\s", done.stderr, re.M)]
    return max(counts, default=0), float(rss[-1] - rss[0]) if rss else 0.0


# ---- the port


async def on_port(folder: Path, seconds: float, attacks: Sequence[str] = ATTACKS) -> dict[str, Any]:
    """Run each attack for `seconds` while a good client ticks, after a period without attack."""
    child = ServerChild(folder / "data", folder / "log", settings=BOUNDS)
    findings: list[str] = []
    (folder / "used").mkdir()
    with measured(folder / "used") as used:
        async with child, freshet.connect(child.grpc) as client, Abuser(child.grpc) as abuser:
            await client.create_model("m", ["a", "b"], task="regress", targets=["q"], hidden=SPEC.hidden)
            async with client.stream("m", "good") as stream:
                for name in attacks:  # one-time allocations happen here
                    await abuser.attack(name, 0.1)
                latency = {"quiet": (await medians(child, stream, asyncio.sleep(seconds)))[0]}
                before, sent = await used.of(child.pid), 0
                for name in attacks:
                    latency[name], _, answer = await medians(child, stream, abuser.attack(name, seconds))
                    sent += answer
                grown = (await used.at_most(before + MAY_GROW, child.pid) - before) / MiB
                brief = min(seconds, UNBOUNDED_S)
                latency[UNBOUNDED], peak, _ = await medians(child, stream, abuser.attack(UNBOUNDED, brief))
            bugs = (await scrape(child.http)).total("grpc_server_handled_total", grpc_code="UNKNOWN")
            if bugs:  # gRPC turns an unexpected exception into this status
                findings.append(f"the server answered UNKNOWN {bugs:g} times")
            if not child.running:
                findings.append(f"the server ended{child.last_words()}")
            elif await child.stop() != 0:
                findings.append(f"the server did not drain{child.last_words()}")
    if grown * MiB > MAY_GROW:
        findings.append(f"the server grew by {grown:.0f} MiB")
    log = (folder / "log").read_text(errors="replace")  # gRPC logs bad input there
    if "Traceback" in log:
        findings.append(log[log.index("Traceback") :][:2000])
    return {
        "messages": Counter({"on the port": sent}), "findings": findings, "growth_mib": {"server": grown},
        "latency_ms": latency,
        "unbounded": {"mib": (peak - before) / MiB, "ratio": latency[UNBOUNDED] / latency["quiet"]},
    }  # fmt: skip


async def medians(child: ServerChild, stream: freshet.Stream, meanwhile: Awaitable[Any]) -> tuple[float, int, Any]:
    """Send ticks one by one until `meanwhile` is done. Returns their median latency in ms, the peak memory of the
    server in bytes, and the result of `meanwhile`."""
    other = asyncio.ensure_future(meanwhile)
    latencies: list[float] = []
    most = 0
    while not latencies or not other.done():
        started = time.perf_counter()
        await stream.step(ROW)
        latencies.append(1e3 * (time.perf_counter() - started))
        most = max(most, Use.of(child.pid).rss)
        await asyncio.sleep(0.001)
    return statistics.median(latencies), most, await other


class Abuser:
    """The process of the attacker: tests/torture/abuse.py."""

    def __init__(self, target: str) -> None:
        self._target = target

    async def __aenter__(self) -> Abuser:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.torture.abuse", self._target, "1",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        await self._line()  # ready
        return self

    async def __aexit__(self, *error: object) -> None:
        self._process.kill()
        await self._process.wait()

    async def attack(self, name: str, seconds: float) -> int:
        """Run an attack. Returns the number of messages sent."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name}\t{seconds}\n".encode())
        return int(await self._line())

    async def _line(self) -> str:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the attacker has ended by itself; see its traceback above")
        return line.decode()
