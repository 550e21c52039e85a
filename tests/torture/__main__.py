"""python -m tests.torture [--quick] [--only KIND] [--json OUT]: provoke every fault and report the outcome."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.torture import cluster, damage, hostile, kill, machine, mutants, poison, power, soak, swaps
from tests.torture.report import Part, whole

KINDS: dict[str, Callable[[Path, bool], Part]] = {
    "kill": kill.run,
    "model": machine.run,
    "damage": damage.part,
    "power": power.run,
    "swaps": swaps.run,
    "mutants": mutants.run,
    "hostile": hostile.part,
    "poison": poison.part,
    "soak": soak.run,
    "cluster": cluster.run,
}


def main(arguments: list[str]) -> int:
    """Run the chosen kinds. Returns exit code 0 if every promise holds."""
    parser = argparse.ArgumentParser(prog="dev.py torture", description="provoke faults, and compare with oracles")
    parser.add_argument("--quick", action="store_true", help="a few rounds of each kind: minutes instead of hours")
    parser.add_argument("--only", choices=sorted(KINDS), help="one kind")
    parser.add_argument("--json", type=Path, help="file for the report")
    asked = parser.parse_args(arguments)
    parts: dict[str, dict[str, Any]] = {}
    for name in [asked.only] if asked.only else KINDS:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"torture-{name}-") as folder:
            part = KINDS[name](Path(folder), asked.quick)
        parts[name] = part.as_json() | {"seconds": round(time.monotonic() - started, 1)}
        print(f"{name}: {'good' if part.good else 'NOT as promised'}: {part.summary}", flush=True)
        for line in part.wrong:
            print(f"  {line}")
    report = whole(parts)
    text = json.dumps(report, indent=2)
    if asked.json:
        asked.json.write_text(text + "\n")
    print(report["summary"])
    return 0 if all(part["good"] for part in parts.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
