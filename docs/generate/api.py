"""docs/reference/api.md: every RPC and message of the wire contract, with the comments of the protos."""

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)

from docs.generate import ROOT
from docs.generate._tables import table
from freshet.v1 import access_pb2

PAGE = "docs/reference/api.md"

INTRODUCTION = """\
# The wire contract

The gRPC package is `freshet.v1`. Its files are in `protos/freshet/v1`; a running server also offers them by reflection.
[application.md](../application.md) shows how to use them. An error is a gRPC status with `google.rpc` details: field,
value and remedy in `BadRequest`, a delay in `RetryInfo`. If the server has an access file, an RPC needs the role in its
row or a higher one: see [access.md](../access.md).

"""

Path_ = tuple[int, ...]  # of an element of a file, as SourceCodeInfo numbers it
SERVICE, MESSAGE, ENUM = 6, 4, 5  # fields of FileDescriptorProto
METHOD, FIELD, NESTED, NESTED_ENUM, VALUE = 2, 2, 3, 4, 2  # fields of ServiceDescriptorProto, DescriptorProto, Enum…


def render() -> str:
    """Return the page."""
    files = sorted(parsed(), key=lambda file: (not file.service, file.name))
    return INTRODUCTION + "\n".join(part for file in files for part in _file(file))


@cache
def parsed() -> list[FileDescriptorProto]:
    """Return our protos with their comments."""
    protos = ROOT / "protos"
    names = sorted(str(path.relative_to(protos)) for path in (protos / "freshet").rglob("*.proto"))
    with TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        flags = [f"-I{protos}", "--include_source_info", f"--descriptor_set_out={out}"]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *flags, *names], check=True)
        return list(FileDescriptorSet.FromString(out.read_bytes()).file)


def _file(file: FileDescriptorProto) -> Iterator[str]:
    comments = {
        tuple(at.path): _comment(at.leading_comments, at.trailing_comments) for at in file.source_code_info.location
    }
    for i, service in enumerate(file.service):
        yield f"## {service.name}\n"
        if about := comments.get((SERVICE, i)):
            yield f"{about}\n"
        rows = [
            (f"`{m.name}`", f"{_stream(m.client_streaming)}{_type(m.input_type)}",
             f"{_stream(m.server_streaming)}{_type(m.output_type)}", _role(m),
             comments.get((SERVICE, i, METHOD, j), ""))
            for j, m in enumerate(service.method)
        ]  # fmt: skip
        yield table(("RPC", "request", "response", "role", "meaning"), rows)
    for i, message in enumerate(file.message_type):
        yield from _message(message, (MESSAGE, i), message.name, comments)
    for i, enum in enumerate(file.enum_type):
        yield from _enum(enum, (ENUM, i), enum.name, comments)


def _message(message: DescriptorProto, at: Path_, name: str, comments: dict[Path_, str]) -> Iterator[str]:
    yield f"### {name}\n"
    if about := comments.get(at):
        yield f"{about}\n"
    rows = [
        (f"`{f.name}`", _kind(message, f), comments.get((*at, FIELD, i), "")) for i, f in enumerate(message.field)
    ]  # fmt: skip
    yield table(("field", "type", "meaning"), rows) if rows else "No fields.\n"
    for i, enum in enumerate(message.enum_type):
        yield from _enum(enum, (*at, NESTED_ENUM, i), f"{name}.{enum.name}", comments)
    for i, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from _message(nested, (*at, NESTED, i), f"{name}.{nested.name}", comments)


def _enum(enum: EnumDescriptorProto, at: Path_, name: str, comments: dict[Path_, str]) -> Iterator[str]:
    yield f"### {name}\n"
    if about := comments.get(at):
        yield f"{about}\n"
    rows = [(v.number, f"`{v.name}`", comments.get((*at, VALUE, i), "")) for i, v in enumerate(enum.value)]
    yield table(("number", "value", "meaning"), rows)


def _kind(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    """Return a field's type in words."""
    entry = next((n for n in message.nested_type if n.name == field.type_name.rpartition(".")[2]), None)
    if entry is not None and entry.options.map_entry:
        return f"map of {_kind(message, entry.field[0])} to {_kind(message, entry.field[1])}"
    name = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    shown = _type(field.type_name) if field.type_name else name
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {shown}"
    if field.proto3_optional:
        return f"optional {shown}"
    if field.HasField("oneof_index"):
        return f"one of: {shown}"
    return shown


def _type(name: str) -> str:
    """Return a link to one of our types, such as `.freshet.v1.Welcome.StateOrigin`."""
    short = name.removeprefix(".freshet.v1.")
    return f"[{short}](#{short.replace('.', '').lower()})"


def _stream(streams: bool) -> str:
    return "stream of " if streams else ""


def _role(method: MethodDescriptorProto) -> str:
    """Return the lowest role that may call the method."""
    return access_pb2.Role.Name(method.options.Extensions[access_pb2.role]).lower()


def _comment(*parts: str) -> str:
    return " ".join(" ".join(part.split()) for part in parts if part.strip())
