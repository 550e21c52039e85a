"""Sections of `freshet serve --help`: first the settings that every server needs, then the others by topic."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

FIRST = "Set these first"
OTHERS = "Other settings"
PANELS = {
    FIRST: ("config", "data", "listen", "http", "access"),
    "Access": ("tls_cert", "tls_key", "tls_client_ca", "insecure", "audit"),
    "Limits per client and in total": (
        "max_streams", "max_resident", "idle_s", "max_models", "max_connections", "max_calls", "max_message_bytes",
        "stream_ticks_per_s", "ticks_per_s", "max_undurable", "max_undurable_bytes",
    ),
    "Disk": (
        "journal_keep_bytes", "journal_keep_s", "journal_cap_bytes", "segment_bytes", "commit_s", "snapshot_s",
        "keep_versions",
    ),
    "Learning and publishing": (
        "publish_labels", "publish_s", "checkpoint_chunks", "trainer_nice", "trainer_hang_s", "comfortable_backlog",
        "worse_evidence", "anchor_labels", "anchor_scores", "score_every", "cool_down_labels", "max_movement",
    ),
    "Connections": ("handshake_s", "keepalive_s", "connection_idle_s", "write_s", "drain_s"),
}  # fmt: skip


def panel_of(setting: str) -> str:
    """Return the title of a setting's section."""
    return next((title for title, names in PANELS.items() if setting in names), OTHERS)


class Panelled(TyperCommand):
    """A command whose help lists its options in the sections and the order of PANELS."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections."""
        order = [name for names in PANELS.values() for name in names]
        params = [param for param in self.get_params(ctx) if param.get_help_record(ctx)]
        for title in (*PANELS, OTHERS):
            here = [param for param in params if panel_of(param.name or "") == title]
            here.sort(key=lambda param: order.index(param.name) if param.name in order else len(order))
            if here:
                with formatter.section(title):
                    formatter.write_dl([param.get_help_record(ctx) for param in here])
