"""The settings of each component, cut from those of the server."""

from __future__ import annotations

from pathlib import Path

from service.learning.dispatch import LearningSettings
from service.publishing.assembly import PublishingSettings
from service.server.config import ServeConfig
from service.server.grpc_server import GrpcSettings
from service.server.shard.upkeep import UpkeepSettings
from service.serving.admission import AdmissionSettings
from service.serving.live import LiveSettings
from service.streams.residency import ResidencySettings


def live_settings(config: ServeConfig) -> LiveSettings:
    """Return the settings of the live path."""
    admission = AdmissionSettings(
        max_undurable=config.max_undurable,
        max_undurable_bytes=config.max_undurable_bytes,
        max_ahead_s=config.max_ahead_s,
        stream_ticks_per_s=config.stream_ticks_per_s,
        ticks_per_s=config.ticks_per_s,
        work_per_s=config.work_per_s,
    )
    return LiveSettings(admission, ResidencySettings(config.idle_s, config.max_resident), config.max_streams)


def learning_settings(config: ServeConfig, data: Path, trainers: int) -> LearningSettings:
    """Return the settings of learning. data: the folder of the shard; trainers: the number of trainer processes."""
    return LearningSettings(
        data=data,
        trainers=trainers,
        nice=config.trainer_nice,
        hang_s=config.trainer_hang_s,
        memory_bytes=config.trainer_memory_bytes,
        publish_labels=config.publish_labels,
        publish_s=config.publish_s,
        checkpoint_chunks=config.checkpoint_chunks,
        gate=config.gate,
        comfortable_backlog=config.comfortable_backlog,
        comfortable_s=config.comfortable_s,
        journal_cap_bytes=config.journal_cap_bytes,
        segment_bytes=config.segment_bytes,
    )


def publishing_settings(config: ServeConfig) -> PublishingSettings:
    """Return the settings of publishing."""
    return PublishingSettings(config.max_models, config.keep_versions)


def grpc_settings(config: ServeConfig) -> GrpcSettings:
    """Return the settings of the gRPC server."""
    return GrpcSettings(
        listen=config.listen,
        max_message_bytes=config.max_message_bytes,
        max_connections=config.max_connections,
        max_calls=config.max_calls,
        keepalive_s=config.keepalive_s,
        handshake_s=config.handshake_s,
        connection_idle_s=config.connection_idle_s,
    )


def upkeep_settings(config: ServeConfig) -> UpkeepSettings:
    """Return the settings of upkeep."""
    return UpkeepSettings(config.snapshot_s, config.journal_keep_bytes, config.journal_keep_s)
