"""Methods of the wire contract that are not built yet: UNIMPLEMENTED, by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc


def answer_by_name(servicer: type, base: type) -> type:
    """The servicer class, with every method of its generated `base` that it does not define answering UNIMPLEMENTED."""

    def unbuilt(name: str) -> Callable[[Any, Any, Any], Awaitable[None]]:
        async def method(self: Any, request: Any, context: Any) -> None:
            service = base.__name__.removesuffix("Servicer")
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"freshet.v1.{service}.{name} is not served yet")

        return method

    missing = [n for n in vars(base) if not n.startswith("_") and getattr(servicer, n) is getattr(base, n)]
    return type(servicer.__name__, (servicer,), {name: unbuilt(name) for name in missing})
