"""The rules that the tree must keep, checked on its source."""

import ast
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from docs import stubs
from tests import layout

ROOT = Path(__file__).resolve().parents[1]

# A room is a folder of modules; a module at the top of model/ is one by itself. One line per room, from the ground up:
# the rooms it may import from, each listed above it, so that imports go down and never both ways. Rooms without a
# prefix are in service/.
ROOMS = {
    "model.calendar": "",
    "model.parameters": "",
    "model.spec": "model.calendar",
    "model.ahead": "model.calendar model.spec",
    "model.bounds": "",
    "model.scalers": "model.bounds",
    "model.covariates": "model.bounds model.scalers model.spec",
    "model.attend": "model.parameters",
    "model.cells": "model.attend model.bounds model.parameters model.spec",
    "model.answers": "model.bounds model.cells model.parameters model.scalers model.spec",
    "model.network": "model.ahead model.answers model.bounds model.cells model.covariates model.parameters "
    "model.scalers model.spec",
    "model.graph": "model.answers model.attend model.cells model.covariates model.network model.parameters "
    "model.scalers model.spec",
    "model.graph.divided": "model.graph",
    "model.foreign": "model.answers model.graph model.network model.parameters model.spec",
    "model.update": "model.network model.parameters model.spec",
    "model.fold": "model.answers model.bounds model.cells model.network model.parameters model.spec model.update",
    "model.offline": "model.answers model.network model.parameters model.update",
    "storage": "",
    "common": "model.calendar model.cells model.fold model.network model.spec",
    "programs.tables.times": "common",
    "journal": "common storage",
    "engine": "model.answers model.graph.divided model.graph model.network model.parameters common",
    "programs.tables": "common programs.tables.times",
    "trainer": "model.fold model.network model.spec model.update common engine journal storage",
    "streams": "model.bounds model.network model.spec common engine journal storage",
    "cluster.store": "storage",
    "console": "model.network model.spec common engine",
    "programs.backtest": "model.calendar model.covariates model.fold model.offline model.spec common console engine "
    "programs.tables programs.tables.times",
    "programs.plots": "common",
    "programs.foreign": "model.foreign model.network model.spec common console engine programs.backtest",
    "observe": "common",
    "datadir": "model.fold common engine journal storage trainer",
    "programs.pictures": "model.fold journal programs.backtest programs.plots trainer",
    "cluster.shards": "cluster.store common datadir journal storage",
    "programs.demo": "model.network common console engine programs.backtest",
    "programs.top": "common console programs.backtest",
    "cli.remote": "model.spec common console programs.top",
    "programs.offline": "model.fold model.network model.offline model.parameters model.spec common console "
    "engine programs.backtest programs.tables",
    "access": "common observe storage",
    "edge.guard": "access common journal observe storage",
    "serving": "access common engine journal observe storage streams",
    "publishing": "model.graph model.network model.spec common engine journal observe serving storage streams trainer",
    "learning": "model.network access common journal observe publishing serving storage streams trainer",
    "viewing": "model.fold model.network model.offline model.parameters model.spec common engine journal learning "
    "observe serving storage streams trainer",
    "edge": "model.fold model.network model.spec model.update access common edge.guard engine journal learning observe "
    "publishing serving storage streams trainer viewing",
    "edge.api": "access common edge edge.guard observe publishing storage streams viewing",
    "edge.oip": "model.spec access common edge edge.api edge.guard learning serving streams",
    "server.shard": "model.spec model.update engine journal learning observe publishing serving storage streams",
    "server": "access common datadir edge edge.api edge.guard edge.oip engine journal "
    "learning observe publishing server.shard serving storage streams trainer viewing",
    "cluster.nodes": "cluster.store common",
    "cluster.moving": "cluster.nodes cluster.shards cluster.store common datadir journal storage streams trainer",
    "cluster.slices": "model.spec cluster.nodes cluster.shards cluster.store common engine journal server serving "
    "storage streams",
    "cluster.hosting": "cluster.nodes cluster.shards cluster.slices cluster.store common edge edge.guard observe "
    "server server.shard storage",
    "cli": "access cli.remote cluster.hosting cluster.moving cluster.store common console datadir journal observe "
    "programs.backtest programs.demo programs.foreign programs.offline programs.pictures programs.plots "
    "programs.tables server storage trainer",
}  # fmt: skip
GROUPS = {"model", "service", "service.cluster", "service.programs"}  # packages that only hold rooms
MOST_FOLDERS = {"service": 19, "model": 10}
MODULES = range(3, 13)  # of a room
MODEL_STDLIB = {
    "abc", "bisect", "collections", "contextlib", "dataclasses", "datetime", "difflib", "enum", "fnmatch", "functools",
    "hashlib",
    "itertools", "json", "math", "numbers", "operator", "re", "statistics", "struct", "types", "typing", "zlib",
    "__future__",
}  # fmt: skip
MODEL_WITH_ONNX = {
    "model.graph.builder", "model.graph.step", "model.graph.importing", "model.graph.metadata",
    "model.graph.divided.parts", "model.foreign.constants",
    "model.foreign.graph",
}  # fmt: skip
SEEDED_RANDOM = {"Generator", "default_rng", "SeedSequence", "PCG64"}
SDK_MAY_IMPORT = {"numpy", "grpc", "grpc_status", "google", "freshet"}


@cache
def sources() -> dict[str, Path]:
    """Every module of ours by its dotted name; a package is named by its folder."""
    found = {}
    for base, package in ((ROOT, "model"), (ROOT, "service"), (ROOT / "client", "freshet")):
        for path in (base / package).rglob("*.py"):
            parts = path.relative_to(base).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def imports_of(module: str) -> set[str]:
    """Dotted names of all that a module imports."""
    path = sources()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return set(layout.imports(tree(path), package))


def our_imports(module: str) -> set[str]:
    """Modules of ours that `module` imports, with the packages that importing them runs."""
    ours = {name for name in imports_of(module) if name in sources()}
    for name in [module, *ours]:
        parts = name.split(".")
        ours |= {".".join(parts[:n]) for n in range(1, len(parts))} & sources().keys()
    return ours


def room(module: str) -> str:
    """The room of a module of model/ or service/, as ROOMS names it."""
    path = sources()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return (module if package == "model" else package).removeprefix("service.")


def below(prefix: str) -> list[str]:
    return sorted(name for name in sources() if name == prefix or name.startswith(f"{prefix}."))


@cache
def arrows() -> dict[tuple[str, str], str]:
    """Imports between rooms, (from, to), each with one that makes it. Packages that only hold rooms are left out."""
    return {
        (room(module), room(target)): f"{module} imports {target}"
        for module in [*below("model"), *below("service")]
        for target in sorted(imports_of(module) & sources().keys() - GROUPS)
        if module not in GROUPS and target.startswith(("model", "service")) and room(module) != room(target)
    }


def forbidden(imports: dict[tuple[str, str], str]) -> list[str]:
    """Imports that ROOMS does not allow."""
    return [why for (here, there), why in imports.items() if there not in ROOMS.get(here, "").split()]


def members(name: str) -> list[str]:
    """Modules of a room, without its `__init__` and generated stubs."""
    own = [module for module in below(name) if sources()[module].name != "__init__.py" and in_room(module, name)]
    return [module for module in own if "_pb2" not in module]


def in_room(module: str, name: str) -> bool:
    return module.rpartition(".")[0] == name


def rooms_of(package: str) -> list[str]:
    return [name for name in below(package) if sources()[name].name == "__init__.py" and name not in GROUPS]


def test_every_room_has_a_line_and_every_line_a_room():
    found = {room(module) for module in [*below("model"), *below("service")] if module not in GROUPS}
    assert found == ROOMS.keys(), f"mend ROOMS in {__name__}: {sorted(found ^ ROOMS.keys())}"


def test_a_room_uses_only_rooms_that_are_listed_above_it():
    names = list(ROOMS)
    wrong = [
        f"{name} uses {used}"
        for at, (name, uses) in enumerate(ROOMS.items())
        for used in uses.split()
        if used not in names[:at]
    ]
    assert not wrong, f"imports would go up, or both ways: {wrong}"


def test_imports_between_rooms_are_those_of_the_list():
    wrong = forbidden(arrows())
    assert not wrong, "move the shared part down, or extend the room's line in ROOMS: " + "; ".join(wrong)


def test_no_line_allows_more_than_the_code_uses():
    used = set(arrows())
    stale = [f"{name} → {other}" for name, uses in ROOMS.items() for other in uses.split() if (name, other) not in used]
    assert not stale, f"remove them from ROOMS: {stale}"


# What once went up, or made rooms know each other, in today's names.
UPWARD = [
    ("service.storage.states", "service.trainer.checkpoint"),
    ("service.trainer.process", "service.observe.metrics"),
    ("service.programs.backtest.plan", "service.cli.main"),
    ("service.console.verbs", "service.programs.offline.command"),
    ("service.console.shown", "service.programs.top.view"),
    # the knot of storage, trainer, metrics, sessions, snapshot
    ("service.storage.snapshot", "service.streams.served"),
    ("service.observe.metrics", "service.streams.served"),
    ("service.programs.top.view", "service.cli.remote.manage"),  # the knot of cli, top, offline, backtest
    ("service.programs.backtest.core", "service.programs.offline.run"),
]


@pytest.mark.parametrize(("module", "target"), UPWARD)
def test_an_import_that_goes_up_is_found(module, target):
    assert {module, target} <= sources().keys(), "say here what the modules are called now"
    why = f"{module} imports {target}"
    assert forbidden(arrows() | {(room(module), room(target)): why}) == [why]


def test_rooms_are_few_and_neither_tiny_nor_crowded():
    sizes = {name: len(members(name)) for package in MOST_FOLDERS for name in rooms_of(package)}
    assert {name: size for name, size in sizes.items() if size not in MODULES} == {}
    for package, most in MOST_FOLDERS.items():
        folders = [name for name in below(package) if name.count(".") == 1 and sources()[name].name == "__init__.py"]
        assert len(folders) <= most
    assert not [name for name in below("service") if name.count(".") == 1 and sources()[name].name != "__init__.py"]


@pytest.mark.parametrize("package", ["model", "service"])
def test_a_room_says_what_it_is(package):
    wordless = [name for name in rooms_of(package) if not (ast.get_docstring(tree(sources()[name])) or "").strip()]
    assert not wordless, f"say in `__init__` what each owns and what it must not know: {wordless}"


def test_the_model_imports_only_numpy_and_pure_parts_of_the_standard_library():
    wrong = [
        f"{module} imports {name}"
        for module in below("model")
        for name in sorted({name.split(".")[0] for name in imports_of(module)})
        if name not in MODEL_STDLIB | {"model", "numpy"} and not (name == "onnx" and module in MODEL_WITH_ONNX)
    ]
    assert not wrong, f"model does no I/O and reads no clock; do it in service and pass the result: {wrong}"


def test_the_model_has_no_hidden_randomness_and_prints_or_opens_nothing():
    wrong = []
    for module in below("model"):
        for node in ast.walk(tree(sources()[module])):
            random = isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("np.random", "numpy.random")
            seeded = isinstance(node, ast.Attribute) and node.attr in SEEDED_RANDOM
            call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("open", "print")
            if isinstance(node, ast.expr) and (call or (random and not seeded)):
                wrong.append(f"{module}:{node.lineno} {ast.unparse(node)}")
    assert not wrong, f"take a Generator or the data as an argument: {wrong}"


def test_the_sdk_stands_alone():
    wrong = [
        f"{module} imports {name}"
        for module in below("freshet")
        for name in sorted({name.split(".")[0] for name in imports_of(module)})
        if name not in SDK_MAY_IMPORT | set(sys.stdlib_module_names)
    ]
    assert not wrong, f"an application installs the SDK with numpy, grpcio, protobuf and grpcio-status only: {wrong}"


def test_the_trainer_process_imports_no_grpc():
    entry = "service.trainer.process"
    assert entry in sources(), f"the trainer's entry point is no longer {entry}: say here where it is"
    reached, todo = set(), [entry]
    while todo:
        module = todo.pop()
        reached.add(module)
        with_grpc = {name for name in imports_of(module) if name.split(".")[0].startswith("grpc")}
        assert not with_grpc, f"the trainer's process reaches {module}, which imports {with_grpc}"
        todo += our_imports(module) - reached
    assert any(module.startswith("model.") for module in reached), "the closure misses the learner: the check is blind"


def test_pytorch_and_jax_stay_in_the_benchmarks():
    every = [*sources().values(), *(ROOT / "tests").rglob("*.py"), ROOT / "dev.py"]
    ours = [path for path in every if re.search("torch|jax", path.read_text(encoding="utf-8"))]  # parsing takes longer
    assert Path(__file__).resolve() in ours
    wrong = [path for path in ours for name in layout.imports(tree(path)) if name.split(".")[0] in ("torch", "jax")]
    assert not wrong, f"they are never a dependency: {wrong}"


def test_the_committed_stubs_are_what_protoc_generates():
    generated, committed = stubs.generated(), stubs.committed()
    assert generated.keys() == committed.keys()
    stale = [path for path in generated if generated[path] != committed[path]]
    assert not stale, f"run `python3 dev.py docs`: {stale}"


def test_no_tracked_file_names_a_registry_or_a_path_of_this_machine():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git work tree: there is no list of tracked files")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    # In pieces, so that this file passes its own test.
    forbidden = ["py" + "pi.org", "python" + "hosted.org", "npm" + "js", f"{ROOT}/", f"{ROOT.parent}/shared"]
    wrong = [
        f"{name} has {word}"
        for name in listed.decode().split("\0")
        if name and (ROOT / name).is_file()
        for word in forbidden
        if word.encode() in (ROOT / name).read_bytes()
    ]
    assert not wrong, f"say it relative to the project's root, or leave the host to pip's configuration: {wrong}"
