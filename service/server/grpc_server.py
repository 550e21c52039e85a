"""The gRPC server: its limits, its interceptors, its services."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from freshet.v1 import (
    cluster_pb2,
    cluster_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    streams_pb2,
    streams_pb2_grpc,
    training_pb2,
    training_pb2_grpc,
)
from service.access.credentials import Certificates
from service.common import limits
from service.edge.guard.health import Health
from service.edge.models import Models
from service.edge.oip import inference_pb2, inference_pb2_grpc
from service.edge.oip.service import Inference
from service.edge.streams import Streams
from service.edge.training import Training
from service.edge.writing import Serialised
from service.server.cluster import Cluster
from service.server.ports import most_descriptors

log = structlog.get_logger("server")

MAX_SEND_BYTES = 64 << 20  # the largest message sent: a version's weights
SERVICES = [
    descriptor.services_by_name[name].full_name
    for descriptor, name in (
        (streams_pb2.DESCRIPTOR, "Streams"),
        (models_pb2.DESCRIPTOR, "Models"),
        (training_pb2.DESCRIPTOR, "Training"),
        (cluster_pb2.DESCRIPTOR, "Cluster"),
        (inference_pb2.DESCRIPTOR, "GRPCInferenceService"),
    )
]


@dataclass(frozen=True, slots=True)
class GrpcSettings:
    """What the gRPC server listens on and allows, as `ServeConfig` documents it."""

    listen: str
    max_message_bytes: int
    max_connections: int
    max_calls: int
    keepalive_s: float
    handshake_s: float
    connection_idle_s: float


@dataclass(frozen=True, slots=True)
class Services:
    """The servicers behind the gRPC port."""

    streams: Streams
    models: Models
    training: Training
    cluster: Cluster
    health: Health
    inference: Inference


def grpc_server(
    settings: GrpcSettings, interceptors: Sequence[Any], services: Services, certificates: Certificates | None
) -> tuple[Any, int]:
    """Build the server and bind its port; it accepts calls once started. Returns the server and the port.

    interceptors: the outermost first. certificates: None: plain text.
    """
    server = grpc.aio.server(interceptors=[*interceptors, Serialised()], options=options(settings))
    streams_pb2_grpc.add_StreamsServicer_to_server(services.streams, server)
    models_pb2_grpc.add_ModelsServicer_to_server(services.models, server)
    training_pb2_grpc.add_TrainingServicer_to_server(services.training, server)
    cluster_pb2_grpc.add_ClusterServicer_to_server(services.cluster, server)
    inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(services.inference, server)
    health_pb2_grpc.add_HealthServicer_to_server(services.health, server)
    reflection.enable_server_reflection([*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    if certificates:
        return server, server.add_secure_port(settings.listen, certificates.grpc())
    return server, server.add_insecure_port(settings.listen)


def options(settings: GrpcSettings) -> list[tuple[str, int]]:
    """Return gRPC's channel arguments."""
    keepalive_ms, handshake_ms = int(1000 * settings.keepalive_s), int(1000 * settings.handshake_s)
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", MAX_SEND_BYTES),
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", keepalive_ms),
        ("grpc.http2.ping_timeout_ms", keepalive_ms),  # 60 s by default, and it takes precedence
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.server_handshake_timeout_ms", handshake_ms),
        ("grpc.http2.settings_timeout", handshake_ms),
        ("grpc.max_connection_idle_ms", int(1000 * settings.connection_idle_s)),
        ("grpc.max_allowed_incoming_connections", allowed_connections(settings.max_connections)),
        # Bound headers of callers that are not yet admitted: HPACK can expand each of their bytes to a whole header.
        ("grpc.max_concurrent_streams", settings.max_calls + limits.MAX_PENDING_CALLS),
        ("grpc.max_metadata_size", limits.MAX_HEADER_BYTES),
        ("grpc.absolute_max_metadata_size", limits.MAX_HEADER_BYTES),
        ("grpc.server.max_pending_requests", limits.MAX_PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", 2 * limits.MAX_PENDING_CALLS),
    ]


def allowed_connections(configured: int) -> int:
    """Return the connections to accept: those configured, or fewer if the process lacks descriptors."""
    allowed = limits.connections(configured, most_descriptors())
    if allowed < configured:
        log.warning("fewer connections than configured, for lack of descriptors", most=allowed)
    return allowed
