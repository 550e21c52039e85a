"""The text of a node's /metrics: that of the process, and those of its shards with a label `shard`."""

from __future__ import annotations

from collections.abc import Mapping

from service.observe.rendering import Registry


def text(process: Registry, shards: Mapping[int, Registry]) -> bytes:
    """Return the text of a scrape. shards: by number, each registry with the same metrics as the others.

    A family that a shard has appears once, with the series of all shards: those of `process` that no shard has set
    are left out.
    """
    families: dict[str, tuple[list[str], list[str]]] = {}  # name → its head, its series
    for shard, registry in sorted(shards.items()):
        for name, head, series in _families(registry.text().decode()):
            families.setdefault(name, (head, []))[1].extend(_labelled(line, shard) for line in series)
    lines = []
    for name, head, series in _families(process.text().decode()):
        if name not in families:
            lines += head + series
    for head, series in families.values():
        lines += head + series
    return "".join(f"{line}\n" for line in lines).encode()


def _families(text: str) -> list[tuple[str, list[str], list[str]]]:
    """Return the families of a scrape: name, the lines of HELP and TYPE, the lines of series."""
    found: list[tuple[str, list[str], list[str]]] = []
    for line in text.splitlines():
        if line.startswith("# HELP "):
            found.append((line.split(" ", 3)[2], [line], []))
        elif line.startswith("#"):
            found[-1][1].append(line)
        else:
            found[-1][2].append(line)
    return found


def _labelled(line: str, shard: int) -> str:
    """Return a line of a series with the label."""
    name, brace, rest = line.partition("{")
    if brace and " " not in name:
        return f'{name}{{shard="{shard:03d}",{rest}'
    name, _, value = line.partition(" ")
    return f'{name}{{shard="{shard:03d}"}} {value}'
