"""grpc.health.v1, with List, which the library's servicer lacks."""

from __future__ import annotations

from typing import Any

from grpc_health.v1 import health, health_pb2


class Health(health.aio.HealthServicer):  # type: ignore[misc]  # untyped
    """The Health service."""

    def __init__(self) -> None:
        super().__init__()
        self._listed: dict[str, Any] = {}

    async def set(self, service: str, status: Any) -> None:
        """Set the status of a service."""
        self._listed[service] = status
        await super().set(service, status)

    async def List(self, request: Any, context: Any) -> health_pb2.HealthListResponse:
        """Return the status of every service; "" is the whole server."""
        answers = {name: health_pb2.HealthCheckResponse(status=status) for name, status in self._listed.items()}
        return health_pb2.HealthListResponse(statuses=answers)
