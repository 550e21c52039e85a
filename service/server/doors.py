"""The doors of a process: the gRPC server with its interceptors and services, and the HTTP side server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from service import version
from service.common.addresses import split_address
from service.common.limits import http_connections
from service.edge.api.access import Entry
from service.edge.api.app import Application, Settings
from service.edge.api.routes import About
from service.edge.guard.auditing import Auditing
from service.edge.guard.call_limit import CallLimit
from service.edge.guard.health import Health
from service.edge.guard.in_flight import InFlight
from service.edge.guard.interceptor import GrpcMetrics
from service.edge.guard.one_request import OneRequest
from service.edge.http import HttpServer, application
from service.edge.models import Models
from service.edge.oip.cards import Cards
from service.edge.oip.inferring import Inferring
from service.edge.oip.rest import Rest
from service.edge.oip.service import Inference
from service.edge.parts import Places
from service.edge.streams import Streams
from service.edge.training import Training
from service.server.cluster import Cluster, Nodes
from service.server.grpc_server import Services, grpc_server
from service.server.ports import most_descriptors
from service.server.settings import grpc_settings
from service.server.shared import Shared


def inferring_door(shared: Shared, places: Places) -> Inferring:
    """Return what answers the Open Inference Protocol behind both doors. Its metrics join the process's if asked."""
    inferring = Inferring(places, shared.clock)
    if shared.config.oip_metrics:
        shared.registry.register(inferring.counts)
    return inferring


def grpc_door(
    shared: Shared, places: Places, inferring: Inferring, health: Health, nodes: Nodes | None = None
) -> tuple[Any, int]:
    """Build the gRPC server and bind its port; it accepts calls once started. Returns the server and the port.

    nodes: answers Cluster.Nodes; None: a single server.
    """
    interceptors = [  # the outermost first: every call is counted, and strangers take none of `max_calls`
        GrpcMetrics(shared.registry),
        shared.security,
        CallLimit(shared.config.max_calls, shared.tenants),
        OneRequest(),
        Auditing(shared.audit),
        InFlight(shared.tenants),
    ]
    services = Services(
        Streams(places, shared.writers),
        Models(places, shared.events, shared.writers),
        Training(places, shared.writers),
        Cluster(nodes),
        health,
        Inference(inferring, Cards(places, inferring), shared.tenants, shared.writers),
    )
    return grpc_server(grpc_settings(shared.config), interceptors, services, shared.certificates)


def http_door(
    shared: Shared, places: Places, inferring: Inferring, text: Callable[[], bytes], obstacle: Callable[[], str]
) -> HttpServer:
    """Build the HTTP server. text: of a scrape; obstacle: why no streams are accepted, or ""."""
    host, port = split_address("http", shared.config.http)
    pages = Application(
        Settings(host.lower(), shared.config.write_s), places, shared.viewing,
        About(version(), shared.wall(), shared.wall, lambda: shared.access.current.open),
        shared.security, lambda: shared.access.current, shared.tenants, shared.audit, shared.metrics.access,
        shared.clock,
    )  # fmt: skip
    rest = Rest(
        inferring, Cards(places, inferring), Entry(shared.security, lambda: shared.access.current, host.lower()),
        shared.tenants, shared.metrics.access.cut_calls.inc, shared.config.write_s, shared.config.max_message_bytes,
    )  # fmt: skip
    app = application(text, obstacle, shared.security.check_metrics, pages, rest.routes())
    context = shared.certificates.context if shared.certificates else None
    return HttpServer(app, host, port, context, http_connections(most_descriptors()), pages.watches.peers)
