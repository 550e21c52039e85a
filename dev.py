#!/usr/bin/env python3
"""Everything a developer runs, on a machine that has nothing but Python 3.11 or newer.

python3 dev.py setup                  make .venv and install the locked packages and the two of ours
python3 dev.py demo [ARGS…]           set up, then run `freshet demo ARGS…`
python3 dev.py test [--all] [ARGS…]   set up, then lint, types, tests; --all adds the long tests; ARGS go to pytest
python3 dev.py torture [ARGS…]        set up, then provoke every fault; ARGS: --quick, --only KIND, --json OUT
python3 dev.py bench NAME [ARGS…]     set up, then run the benchmark bench/NAME.py with ARGS (such as --json OUT)
"""

from __future__ import annotations  # so that an older Python reads far enough to be refused clearly

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "freshet-setup.sha256"
INPUTS = (ROOT / "requirements.lock", ROOT / "pyproject.toml", ROOT / "client" / "pyproject.toml")
LINTED = ("model", "service", "client/freshet", "examples", "tests", "bench", "docs", "dev.py")
MINIMUM = (3, 11)
# Make system calls fail; evaluate alerts, and the dashboard's queries; be a terminal.
TOOLS = ("openssl", "prometheus", "strace", "tmux")


def run(*command: object) -> int:
    """Show a command, run it in the project's root with nothing on stdin, and return its exit code."""
    words = [str(word) for word in command]
    print(f"$ {shlex.join(shown(word) for word in words)}", flush=True)
    return subprocess.run(words, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode


def shown(word: str) -> str:
    """A path inside the project as it is read from the project's root, anything else as it is."""
    return word.removeprefix(f"{ROOT}{os.sep}")


def step(*command: object) -> None:
    """`run`, where a failure ends everything with that exit code."""
    code = run(*command)
    if code:
        print(f"dev.py: that step ended with exit code {code}; mend it and run the same again", file=sys.stderr)
        raise SystemExit(code)


def fingerprint() -> str:
    """What an up-to-date .venv was made from: the lock, what our packages declare, this Python."""
    digest = hashlib.sha256(sys.version.encode())
    for path in INPUTS:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def setup(arguments: Sequence[str] = ()) -> int:
    """Make or refresh .venv; nothing happens when it is up to date."""
    wanted = fingerprint()
    if PYTHON.exists() and STAMP.exists() and STAMP.read_text() == wanted:
        return 0
    STAMP.unlink(missing_ok=True)  # half a set-up must not look like a whole one
    uv = shutil.which("uv")
    if not PYTHON.exists():
        print("making .venv", flush=True)
        venv.create(VENV, with_pip=True)
    install = (uv, "pip", "install", "--python", PYTHON) if uv else (PYTHON, "-m", "pip", "install", "--no-input")
    print("installing the locked packages (a minute or two the first time)", flush=True)
    step(*install, "--require-hashes", "-r", "requirements.lock")
    print("installing freshet and freshet-server from this folder", flush=True)
    # The lock already holds what they need, so that nothing without a hash is fetched, not even to build them.
    step(*install, "--no-deps", "--no-build-isolation", "-e", "client", "-e", ".")
    STAMP.write_text(wanted)
    return 0


def demo(arguments: Sequence[str]) -> int:
    """The demo, with this process replaced by it so that Ctrl-C and signals reach it directly."""
    setup()
    sys.stdout.flush()
    freshet = PYTHON.with_name("freshet")
    os.execv(freshet, [str(freshet), "demo", *arguments])


def tools() -> None:
    """On Debian, as root: install the system's tools that tests need and that are not there. Without them those tests
    are skipped, and say so."""
    missing = [name for name in TOOLS if shutil.which(name) is None]
    if missing and os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get"):
        # Programs alone: a service of that name is not started.
        quietly = ("env", "SYSTEMD_OFFLINE=1", "DEBIAN_FRONTEND=noninteractive", "apt-get")
        install = (*quietly, "install", "-y", "--no-install-recommends", *missing)
        if run(*install):  # with no list of packages, or an old one
            run(*quietly, "update")
            run(*install)


def test(arguments: Sequence[str]) -> int:
    """Lint, format, types and tests. All of them run; the exit code is that of the first that failed."""
    setup()
    tools()
    everything = "--all" in arguments
    linted = [name for name in LINTED if (ROOT / name).exists()]
    marked = ("-m", "long or not long") if everything else ()
    codes = [
        run(PYTHON, "-m", "ruff", "check", "--output-format", "concise", *linted),
        run(PYTHON, "-m", "ruff", "format", "--check", "--output-format", "concise", *linted),
        run(PYTHON, "-m", "mypy"),
        run(PYTHON, "-m", "pytest", "-n", "2", "-rs", *marked, *(word for word in arguments if word != "--all")),
    ]
    return next((code for code in codes if code), 0)


def bench(arguments: Sequence[str]) -> int:
    """One benchmark, by the name of its file."""
    names = sorted(path.stem for path in (ROOT / "bench").glob("*.py") if not path.stem.startswith("_"))
    if not arguments or arguments[0] not in names:
        got = f"{arguments[0]!r}" if arguments else "no name"
        print(f"dev.py bench: expected one of {', '.join(names) or 'no benchmark yet'}; got {got}", file=sys.stderr)
        return 2
    setup()
    return run(PYTHON, "-m", f"bench.{arguments[0]}", *arguments[1:])


def torture(arguments: Sequence[str]) -> int:
    """Faults provoked for real, and what came of them; its own --help says more."""
    setup()
    tools()
    return run(PYTHON, "-m", "tests.torture", *arguments)


VERBS = {"setup": setup, "demo": demo, "test": test, "torture": torture, "bench": bench}


def main(arguments: Sequence[str]) -> int:
    """Run one verb and return its exit code."""
    if sys.version_info < MINIMUM:
        version = sys.version.split()[0]
        print(f"freshet needs Python 3.11 or newer, this is {version}: try python3.11 dev.py", file=sys.stderr)
        return 2
    if not arguments or arguments[0] not in VERBS:
        print(__doc__)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    return VERBS[arguments[0]](arguments[1:])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
