"""Shared by all tests."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal import constants_ast
from hypothesis.internal.conjecture import providers
from xdist.scheduler import WorkStealingScheduling

if TYPE_CHECKING:
    from tests.engines.postgres import Postgres
    from tests.engines.seaweed import Seaweed

ROOT = Path(__file__).resolve().parents[1]

# Processes that share cores spend most of their time in BLAS threads that wait for each other: three that learn a model
# of horizon 256 at once take five times as long. NumPy, imported later, reads this once; what tests start inherits it.
for threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[threads] = "1"

# The suite starts some two hundred servers and commands. Without bytecode each compiles the whole source again: a third
# of its start.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell starts background jobs with Ctrl-C ignored, and the commands under test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test depends on the machine's speed.
MACHINE: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
CONSTANTS_OF_MODULES = providers._get_local_constants


def pytest_configure(config: pytest.Config) -> None:
    """Choose how often Hypothesis tries each property: without the long tests, a quarter as often. Each run tries the
    same examples, so that what passes here passes elsewhere; `--hypothesis-seed=N` tries others."""
    repeatable = config.getoption("--hypothesis-seed") is None  # `derandomize` would have precedence over a seed
    often = 25 if config.option.markexpr == "not long" else 100
    settings.register_profile("freshet", max_examples=often, derandomize=repeatable, **MACHINE)
    settings.load_profile("freshet")
    if repeatable:
        # Hypothesis also draws constants that it reads from the sources of all modules imported so far: which those are
        # depends on the tests that ran before in the same process.
        providers._get_local_constants = constants_ast.Constants


def examples(whole: int) -> settings:
    """Try a property `whole` times when the long tests run too, else a quarter as often."""
    return settings(max_examples=whole * settings().max_examples // 100)


def seeds(count: int) -> pytest.MarkDecorator:
    """Parametrize `seed`: 0 always, the others up to `count` with the long tests."""
    return pytest.mark.parametrize(
        "seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, count))]
    )


def covering(cases: Sequence[tuple[Any, ...]], *together: tuple[int, ...]) -> list[Any]:
    """Return parameters of a product of options, of which few are enough for the default run; the others are long.

    Every value of every option is among those few, and every combination of the options that are `together`, given by
    their places in a case: those that the code under test lets act on each other.
    """
    groups = [*((place,) for place in range(len(cases[0]))), *together]
    shown = [{(group, tuple(case[place] for place in group)) for group in groups} for case in cases]
    wanted, kept = set[Any]().union(*shown), set[int]()
    while wanted:
        kept.add(most := max(range(len(cases)), key=lambda n: len(shown[n] & wanted)))
        wanted -= shown[most]
    ids = ["-".join("+".join(value) if isinstance(value, tuple) else str(value) for value in case) for case in cases]
    marks = [() if n in kept else pytest.mark.long for n in range(len(cases))]
    return [pytest.param(*case, id=id, marks=mark) for case, id, mark in zip(cases, ids, marks, strict=True)]


def unless_installed(reason: str) -> NoReturn:
    """Skip, but fail in continuous integration, where what is missing can be installed."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the measured series beside the project; they may not be copied into it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the measured series are not beside the project (../shared/data)")
    return folder


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Seaweed"]:
    """An object store that takes writes, and the variables of its credentials."""
    from tests.engines.seaweed import a_seaweed

    with a_seaweed(tmp_path_factory.mktemp("seaweed")) as engine, pytest.MonkeyPatch.context() as patch:
        for name, value in engine.environment.items():
            patch.setenv(name, value)
        yield engine


@pytest.fixture(scope="session")
def postgres() -> Iterator["Postgres"]:
    """A PostgreSQL server with a role that owns one database."""
    from tests.engines.postgres import a_postgres

    with a_postgres() as engine:
        yield engine


# ---- order: the whole suite runs in several processes

# Folders by how long one of their tests takes, the longest first; a folder that is not here comes last.
HEAVY = ("torture", "journeys", "docs", "deploy", "service", "client", "contracts")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> WorkStealingScheduling:
    """Give each process one run of consecutive tests, so that few modules start their server twice. A process that has
    finished takes half of the tests that another still has."""
    return WorkStealingScheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the longest tests first, so that the processes end at about the same time."""
    items.sort(key=order)
    items[:] = dealt(items, getattr(config, "workerinput", {"workercount": 1})["workercount"])


def dealt(items: list[pytest.Item], processes: int) -> list[pytest.Item]:
    """Deal the long tests, which come first, to the beginnings of the runs that the processes get.

    In one run, they would be what is left at the end: by number, which is how tests are taken over, they are few.
    """
    long = [item for item in items if item.get_closest_marker("long")]
    others, found = items[len(long) :], list[pytest.Item]()
    for process in range(processes):
        size = (len(items) - len(found)) // (processes - process)
        found += long[process::processes]
        rest = max(0, size - len(long[process::processes]))
        found, others = found + others[:rest], others[rest:]
    return found


def order(item: pytest.Item) -> tuple[float, int]:
    """Return a sort key: the long tests first, by their timeout, then the others by their folder."""
    folder = item.path.relative_to(ROOT / "tests").parts[0]
    limit = item.get_closest_marker("timeout")
    allowed_s = limit.args[0] if limit else 300
    return -allowed_s if item.get_closest_marker("long") else 0, (*HEAVY, folder).index(folder)
