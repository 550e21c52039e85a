"""The part of a trainer's progress report that is counted. The trainer's own class documents each field."""

# ruff: noqa: D102  # fields, spelled as properties because the trainer's dataclasses are frozen

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Totals(Protocol):
    """Totals of one model since it was created: see `service.trainer.hosting.Totals`."""

    @property
    def counts(self) -> Mapping[str, int]: ...
    @property
    def quarantined(self) -> Mapping[str, int]: ...  # by reason
    @property
    def in_quarantine(self) -> int: ...


class Report(Protocol):
    """A trainer's report of one chunk, as far as it is counted: see `service.trainer.reports.Progress`."""

    @property
    def totals(self) -> Totals: ...
    @property
    def losses(self) -> Sequence[float]: ...
    @property
    def persistence(self) -> Sequence[float]: ...
    @property
    def scores(self) -> Sequence[tuple[float, float]]: ...  # (candidate, anchor)
    @property
    def norms(self) -> Sequence[float]: ...
    @property
    def refused(self) -> int: ...
    @property
    def by_layer(self) -> Sequence[Mapping[str, float]]: ...
    @property
    def ratios(self) -> Sequence[float]: ...
    @property
    def lags(self) -> Mapping[str, Sequence[float]]: ...
    @property
    def saturated(self) -> Mapping[str, float]: ...
    @property
    def covered(self) -> Mapping[str, float]: ...
    @property
    def asked(self) -> Mapping[str, float]: ...
    @property
    def experts(self) -> Mapping[str, float]: ...  # weights of a mixture
    @property
    def errors(self) -> Mapping[int, tuple[float, float, float, float]]: ...  # by step ahead
