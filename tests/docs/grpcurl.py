"""As much of grpcurl as the pages use, for machines without it: reflection for the schema, JSON in and out.

usage: grpcurl [-plaintext] [-insecure] [-cacert F] [-cert F] [-key F] [-H 'NAME: VALUE'] [-d JSON|@]
               HOST:PORT [list [SERVICE] | describe NAME | SERVICE/METHOD]
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

FAILED = 64  # grpcurl adds the status code to it


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line: grpcurl's flags begin with one dash."""
    parser = argparse.ArgumentParser(prog="grpcurl", add_help=False)
    for flag in ("plaintext", "insecure"):
        parser.add_argument(f"-{flag}", action="store_true")
    for value in ("cacert", "cert", "key", "d"):
        parser.add_argument(f"-{value}")
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("target")
    parser.add_argument("what")
    parser.add_argument("name", nargs="?")
    return parser.parse_args(words)


def channel(given: argparse.Namespace) -> grpc.Channel:
    """To the target, with the TLS files that were named."""
    if given.plaintext:
        return grpc.insecure_channel(given.target)
    ca, key, cert = (Path(file).read_bytes() if file else None for file in (given.cacert, given.key, given.cert))
    return grpc.secure_channel(given.target, grpc.ssl_channel_credentials(ca, key, cert))


def documents(text: str) -> Iterator[Any]:
    """The JSON values of a request, which may follow each other."""
    decoder = json.JSONDecoder()
    text = text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        yield value
        text = text[end:].strip()


def call(to: grpc.Channel, method: MethodDescriptor, data: str, metadata: Sequence[tuple[str, str]]) -> None:
    """Send what `data` holds, print every answer. Raises grpc.RpcError, json_format.ParseError."""
    request = message_factory.GetMessageClass(method.input_type)
    answer = message_factory.GetMessageClass(method.output_type)
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    rpc = getattr(to, kind)(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=request.SerializeToString, response_deserializer=answer.FromString,
    )  # fmt: skip
    sent = [json_format.ParseDict(value, request()) for value in documents(data)]
    answers = rpc(iter(sent) if method.client_streaming else (sent or [request()])[0], metadata=metadata, timeout=60)
    for message in answers if method.server_streaming else [answers]:
        print(json_format.MessageToJson(message), flush=True)


def main(words: Sequence[str]) -> int:
    """The exit code, as grpcurl's."""
    given = arguments(words)
    metadata = [(name.strip().lower(), value.strip()) for name, _, value in (h.partition(":") for h in given.H)]
    data = sys.stdin.read() if given.d == "@" else given.d or ""
    with channel(given) as to:
        if metadata:
            to = grpc.intercept_channel(to, _Metadata(metadata))
        pool = DescriptorPool(reflection := ProtoReflectionDescriptorDatabase(to))
        try:
            if given.what == "list" and not given.name:
                print("\n".join(sorted(reflection.get_services())))
            elif given.what == "list":
                print("\n".join(sorted(m.full_name for m in pool.FindServiceByName(given.name).methods)))
            else:
                service, _, method = given.what.rpartition("/")
                call(to, pool.FindServiceByName(service).methods_by_name[method], data, metadata)
        except grpc.RpcError as error:
            code = error.code()
            print(f"ERROR:\n  Code: {_camel(code.name)}\n  Message: {error.details()}", file=sys.stderr)
            return FAILED + int(code.value[0])
    return 0


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


class _Metadata(grpc.StreamStreamClientInterceptor):
    """Puts the headers on reflection's own calls."""

    def __init__(self, metadata: Sequence[tuple[str, str]]) -> None:
        self._metadata = metadata

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(details._replace(metadata=list(details.metadata or []) or self._metadata), requests)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
