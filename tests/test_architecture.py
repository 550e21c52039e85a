"""The rules that the tree must keep, checked on its source."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# The floor of every module; a folder stands for all that it contains. Imports go down or stay on the floor.
FLOORS = {
    "model": 0,
    # decisions: pure functions and records
    "service.access": 1,
    "service.answers": 1,
    "service.chart": 1,
    "service.config": 1,
    "service.dates": 1,
    "service.differences": 1,
    "service.documents": 1,
    "service.errors": 1,
    "service.exposition": 1,
    "service.expiry": 1,
    "service.fields": 1,
    "service.gate": 1,
    "service.labels": 1,
    "service.limits": 1,
    "service.names": 1,
    "service.rates": 1,
    "service.records": 1,
    "service.retention": 1,
    "service.sequence": 1,
    "service.skips": 1,
    "service.sources": 1,
    "service.table": 1,
    "service.tables": 1,
    "service.totals": 1,
    # components: each with one `run`, or the storage under it
    "service.audit": 2,
    "service.batcher": 2,
    "service.control": 2,
    "service.creation": 2,
    "service.credentials": 2,
    "service.engine": 2,
    "service.erasure": 2,
    "service.export": 2,
    "service.events": 2,
    "service.loading": 2,
    "service.intake": 2,
    "service.heap": 2,
    "service.histograms": 2,
    "service.learning": 2,
    "service.logs": 2,
    "service.metrics": 2,
    "service.publisher": 2,
    "service.refold": 2,
    "service.recovery": 2,
    "service.rendering": 2,
    "service.replaying": 2,
    "service.residency": 2,
    "service.serving": 2,
    "service.sessions": 2,
    "service.snapshot": 2,
    "service.steps": 2,
    "service.storage": 2,
    "service.tenants": 2,
    "service.trainer": 2,
    "service.upkeep": 2,
    "service.watched": 2,
    # edges: the wire, the outside, the composition root
    "service.backtest": 3,
    "service.cli": 3,
    "service.edge": 3,
    "service.offline": 3,
    "service.remote": 1,
    "service.server": 3,
    "service.top": 3,
    "service.wire": 3,
}
MODEL_STDLIB = {
    "abc", "bisect", "collections", "contextlib", "dataclasses", "datetime", "difflib", "enum", "functools", "hashlib",
    "itertools", "json", "math", "numbers", "operator", "struct", "types", "typing", "zlib", "__future__",
}  # fmt: skip
MODEL_WITH_ONNX = {"model.onnx_graph", "model.onnx_step", "model.importing"}
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


def imported_names(path: Path, module: str = "") -> Iterator[str]:
    """Dotted names of all that a file imports, at any depth; `from a import b` gives a and a.b."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_of(module: str) -> set[str]:
    return set(imported_names(sources()[module], module))


def our_imports(module: str) -> set[str]:
    """Modules of ours that `module` imports, with the packages that importing them runs."""
    ours = {name for name in imports_of(module) if name in sources()}
    for name in [module, *ours]:
        parts = name.split(".")
        ours |= {".".join(parts[:n]) for n in range(1, len(parts))} & sources().keys()
    return ours


def floor(module: str) -> int | None:
    """The floor of the longest listed prefix; None for a module that nobody placed."""
    parts = module.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((FLOORS[prefix] for prefix in prefixes if prefix in FLOORS), None)


def below(prefix: str) -> list[str]:
    return sorted(name for name in sources() if name == prefix or name.startswith(f"{prefix}."))


def test_every_service_module_has_a_floor():
    homeless = [name for name in below("service") if name != "service" and floor(name) is None]
    assert not homeless, f"{homeless} have no floor: add each to FLOORS in {__name__}, as low as its imports allow"


def test_imports_only_go_down():
    upward = [
        f"{module} (floor {here}) imports {target} (floor {there})"
        for module in [*below("model"), *below("service")]
        for target in sorted(our_imports(module))
        if (here := floor(module)) is not None and (there := floor(target)) is not None and there > here
    ]
    assert not upward, "move the shared part down a floor: " + "; ".join(upward)


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
            call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("open", "print")
            if call or (random and node.attr not in SEEDED_RANDOM):
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
    ours = [*sources().values(), *(ROOT / "tests").rglob("*.py"), ROOT / "dev.py"]
    wrong = [path for path in ours for name in imported_names(path) if name.split(".")[0] in ("torch", "jax")]
    assert not wrong, f"they are never a dependency: {wrong}"


def test_the_committed_stubs_are_what_protoc_generates(tmp_path):
    protos = sorted(path.relative_to(ROOT / "protos") for path in (ROOT / "protos").rglob("*.proto"))
    outputs = [f"--{plugin}_out={tmp_path}" for plugin in ("python", "grpc_python", "mypy", "mypy_grpc")]
    plugins = {"PATH": str(Path(sys.executable).parent)}  # protoc-gen-mypy is installed beside the interpreter
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-Iprotos", *outputs, *map(str, protos)],
        cwd=ROOT,
        env=plugins,
        check=True,
    )
    generated = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*_pb2*.py*")}
    client = ROOT / "client"
    committed = {path.relative_to(client): path.read_bytes() for path in (client / "freshet/v1").glob("*_pb2*.py*")}
    assert generated.keys() == committed.keys()
    stale = [str(path) for path in generated if generated[path] != committed[path]]
    assert not stale, f"regenerate with --python_out=client and the other three plugins of this test: {stale}"


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
