"""The server's settings: flags, then FRESHET_* variables, then a TOML file, then these defaults. Checked once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from service.common.addresses import is_local, split_address
from service.common.documents import DocumentError, read_text, toml
from service.common.gate import GateSettings
from service.common.slices import parse

ENV_PREFIX = "FRESHET_"
NEAR = 0.6  # similarity, 0..1, from which a known name is suggested
CLIENT_VARIABLES = {"url", "token", "ca", "cert", "key"}  # variables of verbs that call a server


class ConfigError(ValueError):
    """An invalid setting. The message names it, its value and the remedy."""


MAX_TRAINERS = 256
EVERY_HOST = ("0.0.0.0", "::", "[::]")  # addresses to listen on, which no client can call


def whole_or_auto(value: Any) -> int | Literal["auto"]:
    """Parse a number of trainer processes, or "auto". Raises ValueError naming the setting."""
    if value == "auto":
        return "auto"
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MAX_TRAINERS:
        raise ValueError(f"trainers = {value!r}: give a number from 1 to {MAX_TRAINERS}, or auto")
    return number


class ServeConfig(BaseSettings):
    """Every setting of `freshet serve`. Units are in the names: _s seconds, _bytes bytes.

    Only the composition root and the command line see it whole; each component gets a record of its own.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True, allow_inf_nan=False)

    listen: str = Field("127.0.0.1:8300", description="gRPC address, HOST:PORT; port 0 picks a free one")
    http: str = Field("127.0.0.1:8301", description="address of the page, its API, /metrics, /healthz and /readyz")
    data: Path = Field(Path("freshet-data"), description="data directory: journal, snapshots and versions")
    store: str = Field(
        "",
        description="URL of the store that several nodes share: s3://, gs://, az://, postgresql:// or file://",
    )
    advertise: str = Field(
        "", description="gRPC address by which clients and other nodes reach this node; empty: that of listen"
    )
    tls_peer_ca: Path | None = Field(
        None, description="PEM file of the authorities that sign the nodes' certificates; without it, the system's"
    )
    shards: int = Field(16, ge=1, le=256, description="shards of a new store; an existing one keeps its number")
    slices: str = Field("", description="models whose streams are spread over shards: MODEL=N, comma-separated")
    slices_s: float = Field(0.25, gt=0, description="time between two looks at the slices of a model, in the store")
    heartbeat_s: float = Field(2.0, gt=0, description="time between two notes of a node to the others, in the store")
    image_s: float = Field(30.0, gt=0, description="time between two images of a shard's databases in the store")
    log_format: Literal["auto", "console", "logfmt", "json"] = Field(
        "auto", description="format of the log on standard error; auto: console on a terminal, else logfmt"
    )
    insecure: bool = Field(False, description="listen beyond this machine without TLS or tokens")
    tls_cert: Path | None = Field(
        None, description="PEM file of the server's certificate chain; enables TLS on both ports"
    )
    tls_key: Path | None = Field(None, description="PEM file of the certificate's key")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of the authorities that must sign gRPC clients' certificates"
    )
    access: Path | None = Field(
        None, description="TOML file of tokens and quotas; without it every caller is an administrator"
    )
    audit: Path | None = Field(None, description="file of the audit log, JSON lines; without it, the process log")
    oip_metrics: bool = Field(
        False, description="expose Triton's metrics too, nv_inference_*, of requests of the Open Inference Protocol"
    )

    publish_labels: int = Field(
        32, ge=1, description="learned ticks after which a publish is due, at the journal's end"
    )
    publish_s: float = Field(1.0, gt=0, description="longest time from learning to a verdict")
    checkpoint_chunks: int = Field(64, ge=1, description="journal chunks between two trainer checkpoints")
    session_memory_bytes: int = Field(
        1 << 28, ge=1, description="memory for loaded versions; those of idle models are unloaded"
    )
    trainer_memory_bytes: int = Field(
        1 << 30, ge=1, description="memory for models in the trainer; idle ones are unloaded"
    )
    trainer_nice: int = Field(10, ge=0, le=19, description="scheduling niceness of the trainer process")
    trainer_hang_s: float = Field(60.0, gt=0, description="kill a trainer that has work and is silent this long")
    # Each process takes a core and about 70 MB.
    trainers: Annotated[int | Literal["auto"], BeforeValidator(whole_or_auto)] = Field(
        1, description="trainer processes, each with its own models; auto: one per spare core"
    )
    # Exceeds what a server can learn: lower it on a shared server, or give each tenant a quota.
    learn_s_per_s: float = Field(1000.0, gt=0, description="seconds of learning per second allowed to one tenant")
    comfortable_s: float = Field(15.0, gt=0, description="seconds of waiting learning above which labels are thinned")
    fresh_s: float = Field(30.0, gt=0, description="a model is late if its oldest label waits longer for a verdict")
    comfortable_backlog: int = Field(20_000, ge=1, description="unlearned ticks above which labels are thinned")

    worse_evidence: float = Field(
        1e4, gt=1, description="evidence from which a candidate counts as worse than the anchor"
    )
    anchor_labels: int = Field(512, ge=1, description="scored labels after which a version can become the anchor")
    anchor_scores: int = Field(512, ge=1, description="updates over which these labels must be spread")
    score_every: int = Field(4, ge=1, description="score the anchor on one in this many chunks")
    cool_down_labels: int = Field(256, ge=0, description="labels to learn after a rollback before the next publish")
    max_movement: float = Field(4.0, gt=0, description="largest relative change of weights between versions, L2 norm")

    keep_versions: int = Field(32, ge=1, description="recent versions kept, besides those that recovery needs")
    snapshot_s: float = Field(10.0, gt=0, description="time between snapshots of stream states")
    commit_s: float = Field(0.01, ge=0, le=1, description="shortest time between two journal commits")
    segment_bytes: int = Field(64 << 20, ge=4096, description="size of a journal segment")
    # Whole segments, and only of what lies before the last snapshot and the trainer's last checkpoint.
    journal_keep_bytes: int = Field(
        4 << 30, ge=0, description="journal kept at most; the rest is deleted once unneeded"
    )
    journal_keep_s: float = Field(
        7 * 86400.0, ge=0, description="age of journal kept at most; older is deleted once unneeded"
    )
    journal_cap_bytes: int = Field(
        8 << 30, ge=1, description="largest unlearned journal; beyond it learning skips entries"
    )
    # At most `answers.KEPT_ANSWERS`. A test compares them, because importing it would load NumPy for --help.
    max_undurable: int = Field(256, ge=1, le=256, description="ticks of a stream that are answered and not yet on disk")
    # While the disk is full, nothing else bounds the memory of entries that wait to be written.
    max_undurable_bytes: int = Field(
        256 << 20, ge=1, description="memory for entries that wait for a full disk, all streams"
    )
    max_message_bytes: int = Field(1 << 20, ge=1024, description="largest gRPC message accepted")
    # Defaults exceed what a server can process; lower them on a shared server.
    stream_ticks_per_s: float = Field(
        50_000.0, gt=0, description="ticks per second accepted from one stream, on average"
    )
    ticks_per_s: float = Field(2_000_000.0, gt=0, description="ticks per second accepted from all streams")
    # Otherwise one tick of 2099 would make every later true one refused.
    max_ahead_s: float = Field(
        86_400.0, gt=0, description="event times further ahead of the server's clock are refused"
    )
    # A row of a default model takes about 36,000, of the largest 8 million; a core does about 3e10 per second.
    work_per_s: float = Field(1e12, gt=0, description="multiply-adds of steps per second, all streams")
    max_streams: int = Field(1_000_000, ge=1, description="known streams, all models")
    idle_s: float = Field(600.0, ge=0, description="a stream idle this long is evicted from memory, not from disk")
    # About 60 MB with one channel and 32 hidden units; beyond it, the idlest streams are evicted early.
    max_resident: int = Field(100_000, ge=1, description="streams in memory, all models")
    # With 1,000 idle models, a server just started holds 80 MB for them, its trainer 4 MB; see bench/idle.py.
    max_models: int = Field(1_000, ge=1, description="models on this server")
    max_connections: int = Field(10_000, ge=1, description="open connections; more are closed")
    max_calls: int = Field(20_000, ge=1, description="open gRPC calls; more get RESOURCE_EXHAUSTED")
    handshake_s: float = Field(5.0, gt=0, description="a new connection is closed unless it speaks HTTP/2 in this time")
    keepalive_s: float = Field(
        10.0, ge=1, description="a connection silent this long is pinged, and closed after as long again"
    )
    connection_idle_s: float = Field(300.0, gt=0, description="a connection without a call is closed after this time")
    write_s: float = Field(10.0, gt=0, description="a call is cut if its client does not take a message in this time")
    # Must stay below the orchestrator's kill timeout, 30 s in Kubernetes.
    drain_s: float = Field(10.0, gt=0, description="time for open calls to finish after SIGTERM")

    @model_validator(mode="after")
    def _files(self) -> ServeConfig:
        if (self.tls_cert is None) != (self.tls_key is None):
            missing = "tls_key" if self.tls_key is None else "tls_cert"
            raise ValueError(f"{missing} = None: a certificate needs its key; give both, or none")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError(f"tls_client_ca = {self.tls_client_ca}: needs TLS; give tls_cert and tls_key too")
        return self

    @model_validator(mode="after")
    def _addresses(self) -> ServeConfig:
        guards = {"listen": self.access or self.tls_client_ca, "http": self.access}
        for name, guard in guards.items():
            host, port = split_address(name, getattr(self, name))
            if self.insecure or is_local(host) or (self.tls_cert and guard):
                continue
            lacks = "without a list of who may call" if self.tls_cert else "without TLS"
            needs = "tls_cert, tls_key and access" + (" or tls_client_ca" if name == "listen" else "")
            raise ValueError(
                f"{name} = {host}:{port}: reachable from other machines {lacks}; "
                f"listen on 127.0.0.1, or give {needs}, or accept it with --insecure"
            )
        return self

    @model_validator(mode="after")
    def _cluster(self) -> ServeConfig:
        host, _ = split_address("listen", self.listen)
        if self.slices and not self.store:
            raise ValueError(f"slices = {self.slices!r}: a single server has no shards; give a store, or leave it out")
        if self.store and not self.advertise and host in EVERY_HOST:
            raise ValueError(
                f"advertise = '': no client can call {self.listen}; give the HOST:PORT by which others reach this node"
            )
        if self.advertise:
            split_address("advertise", self.advertise)
        return self

    @field_validator("slices")
    @classmethod
    def _slices(cls, value: str) -> str:
        parse(value)
        return value

    @model_validator(mode="after")
    def _journal(self) -> ServeConfig:
        if self.journal_cap_bytes < self.journal_keep_bytes:
            raise ValueError(
                f"journal_cap_bytes = {self.journal_cap_bytes}: below journal_keep_bytes, "
                f"{self.journal_keep_bytes}; raise the one, or lower the other"
            )
        return self

    @property
    def gate(self) -> GateSettings:
        """The gate's settings."""
        return GateSettings(
            self.worse_evidence,
            self.anchor_labels,
            self.anchor_scores,
            self.score_every,
            self.cool_down_labels,
            self.max_movement,
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: flags, environment, file."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, _in_file)


_in_file: dict[str, Any] = {}


def load(flags: dict[str, Any], file: Path | None = None) -> ServeConfig:
    """Return the effective settings. flags: those given, by field name. Raises ConfigError, also for unknown names."""
    global _in_file
    unknown = [
        name
        for name in os.environ
        if name.startswith(ENV_PREFIX) and name.removeprefix(ENV_PREFIX).lower() not in {*fields(), *CLIENT_VARIABLES}
    ]
    if unknown:
        known = [ENV_PREFIX + name.upper() for name in fields()]
        raise ConfigError(f"{unknown[0]}: {no_such_setting(unknown[0], known)}")
    _in_file = settings_in(file)
    try:
        return ServeConfig(**flags)
    except ValidationError as error:
        raise ConfigError("; ".join(map(_problem, error.errors()))) from error
    finally:
        _in_file = {}


def settings_in(file: Path | None) -> dict[str, Any]:
    """Return the settings of a file, by name. Raises ConfigError."""
    try:
        return toml(read_text(file)) if file else {}
    except FileNotFoundError:
        raise ConfigError(f"config = {file}: no such file") from None
    except (OSError, DocumentError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not TOML: {error}"
        raise ConfigError(f"config = {file}: {reason}") from error


def _problem(error: Any) -> str:
    """Return one of pydantic's errors as name, value and remedy."""
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{name} = {error['input']!r}: {no_such_setting(name, fields())}"
    if error["type"] == "value_error":  # from a validator of ours: its text is complete
        return str(error["ctx"]["error"])
    return f"{name} = {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def no_such_setting(name: str, known: Sequence[str]) -> str:
    """Return the remedy for an unknown name: the most similar known name, if any, and all known names."""
    alike = {setting.lower(): setting for setting in known}
    nearest = get_close_matches(name.lower().replace("-", "_"), alike, 1, NEAR)
    meant = f"did you mean {alike[nearest[0]]}? " if nearest else ""
    return f"no such setting; {meant}known are {', '.join(known)}"


def fields() -> list[str]:
    """Return the names of all settings."""
    return list(ServeConfig.model_fields)
