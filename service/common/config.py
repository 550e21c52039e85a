"""The server's settings: flags, then FRESHET_* variables, then a TOML file, then these defaults. Checked once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from service.common.addresses import is_local, split_address
from service.common.documents import DocumentError, read_text, toml
from service.common.gate import GateSettings

ENV_PREFIX = "FRESHET_"
NEAR = 0.6  # alike enough to be what was meant, 0..1
CLIENT_VARIABLES = {"url", "token", "ca", "cert", "key"}  # of verbs that ask a server, not of the server


class ConfigError(ValueError):
    """A setting that cannot be: the message names it, its value and the remedy."""


MAX_TRAINERS = 256


def whole_or_auto(value: Any) -> int | Literal["auto"]:
    """A number of trainer processes as it was given. Raises ValueError naming the setting."""
    if value == "auto":
        return "auto"
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MAX_TRAINERS:
        raise ValueError(f"trainers = {value!r}: give a number from 1 to {MAX_TRAINERS}, or auto")
    return number


class ServeConfig(BaseSettings):
    """Every option of `freshet serve`. Units are in the names: _s seconds, _bytes bytes."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True, allow_inf_nan=False)

    listen: str = Field("127.0.0.1:8300", description="gRPC address, HOST:PORT; port 0 picks a free one")
    http: str = Field("127.0.0.1:8301", description="address of /metrics, /healthz and /readyz")
    data: Path = Field(Path("freshet-data"), description="directory of journal, snapshots and versions")
    log_format: Literal["auto", "console", "logfmt", "json"] = Field(
        "auto", description="of every line on standard error; auto: console on a terminal, else logfmt"
    )
    insecure: bool = Field(False, description="allow addresses other than this machine's to whoever comes")
    tls_cert: Path | None = Field(None, description="PEM file of the server's certificate and chain: TLS on both ports")
    tls_key: Path | None = Field(None, description="PEM file of its key")
    tls_client_ca: Path | None = Field(None, description="PEM file: gRPC clients need a certificate signed by these")
    access: Path | None = Field(None, description="TOML file of tokens and quotas; without it nobody needs a token")
    audit: Path | None = Field(None, description="file of the audit log, JSON lines; without it the process log has it")

    publish_labels: int = Field(32, ge=1, description="ticks learned that make a publish due, at the journal's end")
    publish_s: float = Field(1.0, gt=0, description="longest time from learning to a verdict")
    checkpoint_chunks: int = Field(64, ge=1, description="journal chunks between two trainer checkpoints")
    session_memory_bytes: int = Field(1 << 28, ge=1, description="versions loaded for ticks; of idle models they leave")
    trainer_memory_bytes: int = Field(1 << 30, ge=1, description="arrays of models in the trainer; idle ones leave")
    trainer_nice: int = Field(10, ge=0, le=19, description="scheduling niceness of the trainer process")
    trainer_hang_s: float = Field(60.0, gt=0, description="silence of a trainer with work to do that gets it killed")
    # Each takes a core and about 70 MB.
    trainers: Annotated[int | Literal["auto"], BeforeValidator(whole_or_auto)] = Field(
        1, description="trainer processes, each with its models; auto: one per spare core"
    )
    # More than any server has: whoever shares one lowers it, or gives each tenant a quota of its own.
    learn_s_per_s: float = Field(1000.0, gt=0, description="seconds of learning per second that one tenant may have")
    comfortable_s: float = Field(15.0, gt=0, description="seconds of learning that may wait before labels are thinned")
    fresh_s: float = Field(30.0, gt=0, description="a label that waits longer to be judged makes its model be behind")
    comfortable_backlog: int = Field(20_000, ge=1, description="unlearned ticks above which labels are thinned")

    worse_evidence: float = Field(1e4, gt=1, description="evidence that makes a candidate worse than the anchor")
    anchor_labels: int = Field(512, ge=1, description="scored labels a version's line must hold to become the anchor")
    anchor_scores: int = Field(512, ge=1, description="updates in which those must have been scored")
    score_every: int = Field(4, ge=1, description="the anchor is scored on one in so many chunks")
    cool_down_labels: int = Field(256, ge=0, description="labels learned after a rollback before the next publish")
    max_movement: float = Field(4.0, gt=0, description="relative change of weights between two versions, L2 norms")

    keep_versions: int = Field(32, ge=1, description="recent versions kept besides those that recovery needs")
    snapshot_s: float = Field(10.0, gt=0, description="time between snapshots of stream states")
    commit_s: float = Field(0.01, ge=0, le=1, description="shortest time between two journal commits")
    segment_bytes: int = Field(64 << 20, ge=4096, description="journal segment size")
    # Whole segments, and only of what lies before the last snapshot and the trainer's last checkpoint.
    journal_keep_bytes: int = Field(4 << 30, ge=0, description="journal beyond so much goes once nothing needs it")
    journal_keep_s: float = Field(7 * 86400.0, ge=0, description="journal older than this goes once nothing needs it")
    journal_cap_bytes: int = Field(8 << 30, ge=1, description="unlearned journal; beyond so much it is skipped")
    # At most `answers.KEPT_ANSWERS`, which is not imported: it would bring NumPy into --help. A test compares them.
    max_undurable: int = Field(256, ge=1, le=256, description="ticks of a stream answered and not yet on disk")
    # Counts while the disk is full, when nothing else ends what is kept in memory until it can be written.
    max_undurable_bytes: int = Field(256 << 20, ge=1, description="bytes kept for a full disk, all streams together")
    max_message_bytes: int = Field(1 << 20, ge=1024, description="largest gRPC message")
    # More than one stream, and one server, take in at all: whoever shares a server lowers them.
    stream_ticks_per_s: float = Field(50_000.0, gt=0, description="ticks of a stream taken per second, on average")
    ticks_per_s: float = Field(2_000_000.0, gt=0, description="ticks taken per second, all streams together")
    # One tick of 2099 would otherwise refuse every true one after it.
    max_ahead_s: float = Field(86_400.0, gt=0, description="event times further ahead of this clock are refused")
    # A row of a default model takes some 36,000, of the largest 8 million; a core makes some 3e10 per second.
    work_per_s: float = Field(1e12, gt=0, description="multiply-adds of steps per second, all streams together")
    max_streams: int = Field(1_000_000, ge=1, description="streams known, all models together")
    idle_s: float = Field(600.0, ge=0, description="a stream without a tick for so long leaves memory, not the disk")
    # About 60 MB with one channel and 32 hidden units; beyond it, the idlest leave early.
    max_resident: int = Field(100_000, ge=1, description="streams in memory, all models together")
    # Of 1,000 idle ones, a server that was just started holds 80 MB, its trainer 4 MB; see bench/idle.py.
    max_models: int = Field(1_000, ge=1, description="models")
    max_connections: int = Field(10_000, ge=1, description="connections accepted at once; more are closed")
    max_calls: int = Field(20_000, ge=1, description="gRPC calls open at once; more are RESOURCE_EXHAUSTED")
    handshake_s: float = Field(5.0, gt=0, description="time for a new connection to speak HTTP/2, else it is closed")
    keepalive_s: float = Field(10.0, ge=1, description="a connection this long silent is asked, and closed after again")
    connection_idle_s: float = Field(300.0, gt=0, description="a connection without a call for so long is closed")
    write_s: float = Field(10.0, gt=0, description="time for a client to take a message, else its call is cut")
    # Must stay below the orchestrator's kill timeout, 30 s in Kubernetes.
    drain_s: float = Field(10.0, gt=0, description="time for open streams to finish after SIGTERM")

    @model_validator(mode="after")
    def _files(self) -> ServeConfig:
        if (self.tls_cert is None) != (self.tls_key is None):
            missing = "tls_key" if self.tls_key is None else "tls_cert"
            raise ValueError(f"{missing} = None: a certificate and its key go together; give both, or none")
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
            lacks = "without saying who may come" if self.tls_cert else "without TLS"
            needs = "tls_cert, tls_key and access" + (" or tls_client_ca" if name == "listen" else "")
            raise ValueError(
                f"{name} = {host}:{port}: reachable from other machines {lacks}; "
                f"listen on 127.0.0.1, or give {needs}, or accept that with --insecure"
            )
        return self

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
        """The gate's part."""
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
        """Flags before environment before file."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, _in_file)


_in_file: dict[str, Any] = {}


def load(flags: dict[str, Any], file: Path | None = None) -> ServeConfig:
    """The effective configuration. flags: those given, by field name. Raises ConfigError, also for unknown names."""
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
    """What a file of settings says, by name. Raises ConfigError."""
    try:
        return toml(read_text(file)) if file else {}
    except FileNotFoundError:
        raise ConfigError(f"config = {file}: no such file") from None
    except (OSError, DocumentError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not TOML: {error}"
        raise ConfigError(f"config = {file}: {reason}") from error


def _problem(error: Any) -> str:
    """One of pydantic's findings as name, value and remedy."""
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{name} = {error['input']!r}: {no_such_setting(name, fields())}"
    if error["type"] == "value_error":  # from a validator of ours, which has said it all
        return str(error["ctx"]["error"])
    return f"{name} = {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def no_such_setting(name: str, known: Sequence[str]) -> str:
    """The remedy for a name that is none: the nearest of those that are, if it may be meant, and all of them."""
    alike = {setting.lower(): setting for setting in known}
    nearest = get_close_matches(name.lower().replace("-", "_"), alike, 1, NEAR)
    meant = f"did you mean {alike[nearest[0]]}? " if nearest else ""
    return f"no such setting; {meant}known are {', '.join(known)}"


def fields() -> list[str]:
    """Names of all settings."""
    return list(ServeConfig.model_fields)
