#!/usr/bin/env python3
"""The developer's commands. They need only Python 3.11 or newer; each sets up .venv first if it is missing or stale.

python3 dev.py setup                  make .venv and install the locked packages and the two of this repository
python3 dev.py check                  lint, format and types, side by side; seconds once mypy has its cache
python3 dev.py fix                    apply ruff's fixes and format the code
python3 dev.py docs                   write the protobuf stubs, the generated pages and deploy's lock files again
python3 dev.py test [ARGS…]           check, then all tests but the long ones; ARGS go to pytest
python3 dev.py test PATH -k WORD      only pytest, in one process, on this path, these names, or both
python3 dev.py test --all             also the long tests, as .ci/run does
python3 dev.py test --coverage        also measure which lines run, and print the share for each file
python3 dev.py torture [ARGS…]        provoke every fault; ARGS: --quick, --only KIND, --json OUT
python3 dev.py bench NAME [ARGS…]     run the benchmark bench/NAME.py with ARGS (such as --json OUT)
python3 dev.py demo [ARGS…]           run `freshet demo ARGS…`
"""

from __future__ import annotations  # so that an older Python reads far enough to print the message in `main`

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from ctypes.util import find_library
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "freshet-setup.sha256"
INPUTS = tuple(
    ROOT / name
    for name in ("requirements.lock", "pyproject.toml", "client/pyproject.toml", "client/freshet/version.py")
)
LINTED = ("model", "service", "client/freshet", "examples", "tests", "bench", "docs", "deploy", "dev.py")
MINIMUM = (3, 11)
# TLS keys; Prometheus for alerts and the dashboard's queries; failing system calls; a terminal; a proxy before nodes;
# the browser that the live page is checked in, and Node for its modules; a compiler for the C++ of a page.
TOOLS = ("openssl", "prometheus", "strace", "tmux", "nginx", "chromium", "nodejs", "g++")
LIBRARIES = {"libb64-0d": "b64"}  # Debian's package, and the library that perf_analyzer loads
GENERATORS = ("docs.stubs", "docs.generate", "deploy.version", "deploy.locks")
COVERED = """\
The figure counts lines of model, service and the SDK that ran in pytest or in a server, trainer or command that a test
started. A process that a test kills writes no data, so lines that only ran there count as missed.\
"""


def run(*command: object) -> int:
    """Print a command, run it in the project's root with empty standard input, and return its exit code."""
    words = announce(command)
    return subprocess.run(words, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode


def side_by_side(*commands: Sequence[object]) -> list[int]:
    """Run commands at the same time, print each one's output when it is its turn, and return their exit codes."""
    started = []
    for command in commands:
        words = [str(word) for word in command]
        process = subprocess.Popen(
            words, cwd=ROOT, text=True, encoding="utf-8",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        started.append((words, process))
    codes = []
    for words, process in started:
        announce(words)
        output, _ = process.communicate()
        print(output, end="", flush=True)
        codes.append(process.returncode)
    return codes


def announce(command: Sequence[object]) -> list[str]:
    """Print a command as a shell line, and return it as words."""
    words = [str(word) for word in command]
    print(f"$ {shlex.join(shown(word) for word in words)}", flush=True)
    return words


def shown(word: str) -> str:
    """Return a path inside the project relative to the project's root, anything else unchanged."""
    return word.removeprefix(f"{ROOT}{os.sep}")


def step(*command: object) -> None:
    """Run a command, and exit with its exit code if it fails."""
    code = run(*command)
    if code:
        print(f"dev.py: that command failed with exit code {code}; mend it and run the same again", file=sys.stderr)
        raise SystemExit(code)


def first_failure(codes: Sequence[int]) -> int:
    """Return the first exit code that is not 0, or 0."""
    return next((code for code in codes if code), 0)


def fingerprint() -> str:
    """Return a digest of what .venv is made from: the lock, what our packages declare, and this Python."""
    digest = hashlib.sha256(sys.version.encode())
    for path in INPUTS:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def setup(arguments: Sequence[str] = ()) -> int:
    """Make or refresh .venv; do nothing if it is up to date."""
    wanted = fingerprint()
    if PYTHON.exists() and STAMP.exists() and STAMP.read_text() == wanted:
        return 0
    STAMP.unlink(missing_ok=True)  # an interrupted set-up is not taken for a finished one
    uv = shutil.which("uv")
    if not PYTHON.exists():
        print("making .venv", flush=True)
        venv.create(VENV, with_pip=True)
    install = (uv, "pip", "install", "--python", PYTHON) if uv else (PYTHON, "-m", "pip", "install", "--no-input")
    print("installing the locked packages (a minute or two the first time)", flush=True)
    step(*install, "--require-hashes", "-r", "requirements.lock")
    print("installing freshet and freshet-server from this folder", flush=True)
    # The lock has all dependencies, build tools included, so nothing without a hash is downloaded.
    step(*install, "--no-deps", "--no-build-isolation", "-e", "client", "-e", ".")
    STAMP.write_text(wanted)
    return 0


def demo(arguments: Sequence[str]) -> int:
    """Replace this process by the demo, so that Ctrl-C and signals reach it directly."""
    setup()
    sys.stdout.flush()
    freshet = PYTHON.with_name("freshet")
    os.execv(freshet, [str(freshet), "demo", *arguments])


def tools() -> None:
    """Install the programs and libraries that tests lack, if this is Debian and the user is root.

    Elsewhere, tests that need a missing one are skipped, and pytest lists them with the reason.
    """
    missing = [name for name in TOOLS if shutil.which(name) is None]
    missing += [package for package, library in LIBRARIES.items() if find_library(library) is None]
    if missing and os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get"):
        # SYSTEMD_OFFLINE: a package's service is not started, only its program is used.
        quietly = ("env", "SYSTEMD_OFFLINE=1", "DEBIAN_FRONTEND=noninteractive", "apt-get")
        install = (*quietly, "install", "-y", "--no-install-recommends", *missing)
        if run(*install):  # there is no package list, or an outdated one
            run(*quietly, "update")
            run(*install)


def linted() -> list[str]:
    """Return the folders and files to lint and format; a checkout may lack some."""
    return [name for name in LINTED if (ROOT / name).exists()]


def check(arguments: Sequence[str] = ()) -> int:
    """Run lint, format and types at the same time; return the exit code of the first that failed."""
    setup()
    concise = ("--output-format", "concise")
    return first_failure(
        side_by_side(
            (PYTHON, "-m", "ruff", "check", *concise, *linted()),
            (PYTHON, "-m", "ruff", "format", "--check", *concise, *linted()),
            (PYTHON, "-m", "mypy"),
        )
    )


def fix(arguments: Sequence[str]) -> int:
    """Apply ruff's safe fixes, then format; return ruff's exit code, which is not 0 if something is left to mend."""
    setup()
    fixed = run(PYTHON, "-m", "ruff", "check", "--fix", *linted())
    return first_failure([fixed, run(PYTHON, "-m", "ruff", "format", *linted())])


def docs(arguments: Sequence[str]) -> int:
    """Write what is generated and committed. The stubs come first, because the pages are made by importing them."""
    setup()
    for module in GENERATORS:
        step(PYTHON, "-m", module)
    return 0


def test(arguments: Sequence[str]) -> int:
    """Run the tests named in `arguments`, or else the checks and the whole suite.

    A path or -k names tests: only pytest runs, in one process. `--all` adds the tests marked long, and installs what
    they need, also with a path; a test named with `::` runs even if it is long. `--coverage` measures the lines that
    run. Everything runs even after a failure; the exit code is that of the first part that failed.
    """
    ours = {"--all", "--coverage"}
    wanted = [word for word in arguments if word not in ours]
    chosen = any(word.startswith("-k") or (ROOT / word.partition("::")[0]).exists() for word in wanted)
    setup()
    if not chosen or "--all" in arguments:
        tools()
    if "--all" in arguments:
        run(PYTHON, "-m", "tests.journeys.clients")
    codes = [] if chosen else [check()]
    # Three processes on two cores: a journey waits a third of its time.
    whole = () if chosen else ("-n", "3", "-rs", "--durations", "20", "--durations-min", "1")
    long = "--all" in arguments or any("::" in word for word in wanted)
    marked = ("-m", "long or not long") if long else ()
    measured = "--coverage" in arguments
    pytest = ("coverage", "run", "-m", "pytest") if measured else ("pytest",)
    if measured:
        run(PYTHON, "-m", "coverage", "erase")
    codes.append(run(PYTHON, "-m", *pytest, *whole, *marked, *wanted))
    if measured:
        codes += [run(PYTHON, "-m", "coverage", "combine", "-q"), run(PYTHON, "-m", "coverage", "report")]
        print(COVERED, flush=True)
    return first_failure(codes)


def bench(arguments: Sequence[str]) -> int:
    """Run one benchmark, by the name of its file."""
    names = sorted(path.stem for path in (ROOT / "bench").glob("*.py") if not path.stem.startswith("_"))
    if not arguments or arguments[0] not in names:
        got = f"{arguments[0]!r}" if arguments else "no name"
        print(f"dev.py bench: expected one of {', '.join(names) or 'no benchmark yet'}; got {got}", file=sys.stderr)
        return 2
    setup()
    return run(PYTHON, "-m", f"bench.{arguments[0]}", *arguments[1:])


def torture(arguments: Sequence[str]) -> int:
    """Provoke faults and compare with oracles; `dev.py torture --help` lists the options."""
    setup()
    tools()
    return run(PYTHON, "-m", "tests.torture", *arguments)


VERBS = {
    "setup": setup, "check": check, "fix": fix, "docs": docs, "test": test, "torture": torture, "bench": bench,
    "demo": demo,
}  # fmt: skip


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
