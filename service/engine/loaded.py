"""The loaded sessions: each is checked before it serves; the least recently used leave memory."""

from __future__ import annotations

from collections import OrderedDict

from service.engine.export import Canary
from service.engine.session import PARITY, BadVersion, StepSession, parity

SESSION_MEMORY_BYTES = 1 << 28
KEPT = 4  # sessions that stay, however large: models that tick in turn must not be loaded for every tick


class Engine:
    """A cache of sessions by model and version.

    Beyond `limit_bytes` the least recently used leave, except the last KEPT; the caller loads them again when needed.
    `prepare` may run in any thread, everything else on the event loop.
    """

    def __init__(self, limit_bytes: int = SESSION_MEMORY_BYTES) -> None:
        self._limit, self._size = limit_bytes, 0
        self._sessions: OrderedDict[tuple[int, int], StepSession] = OrderedDict()  # least recently used first
        self._versions: dict[int, set[int]] = {}  # loaded versions, by model
        self._last: tuple[int, int, StepSession] | None = None  # the last one used, which is at the end

    def __repr__(self) -> str:
        mib, models = 1 << 20, len(self._versions)
        return f"Engine({len(self)} sessions of {models} models, {self._size / mib:.1f} of {self._limit / mib:g} MiB)"

    def __len__(self) -> int:
        return len(self._sessions)

    def prepare(self, onnx: bytes, canary: Canary) -> tuple[StepSession, float]:
        """Load a graph and check it against its recorded answers; returns the session and the parity error.

        Raises BadVersion.
        """
        session = StepSession(onnx)
        error = parity(session, canary)
        if error > PARITY:
            raise BadVersion(
                f"answers differ from the recorded ones by {error:.1e}, allowed {PARITY:.0e} in scaled units"
            )
        session.divide(onnx, canary)
        return session, error

    def install(self, model: int, version: int, session: StepSession) -> None:
        """Add a prepared session; others leave if there is no room."""
        self._drop(model, version)
        self._last = None
        self._sessions[model, version] = session
        self._versions.setdefault(model, set()).add(version)
        self._size += session.nbytes
        while self._size > self._limit and len(self._sessions) > KEPT:
            self._drop(*next(iter(self._sessions)))

    def offer(self, model: int, version: int, session: StepSession) -> None:
        """`install`, unless another session would have to leave."""
        if len(self._sessions) < KEPT or self._size + session.nbytes <= self._limit:
            self.install(model, version, session)

    def replace(self, model: int, version: int, session: StepSession) -> None:
        """Replace the model's session by that of its new version. An idle model, without a loaded session, stays so."""
        if model in self._versions:
            self.retire(model, set())  # first: otherwise another model's session could have to leave
            self.install(model, version, session)

    def get(self, model: int, version: int) -> StepSession | None:
        """Return the session of a version if it is loaded, and mark it as used."""
        if self._last is not None and self._last[0] == model and self._last[1] == version:
            return self._last[2]
        session = self._sessions.get((model, version))
        if session is not None:
            self._sessions.move_to_end((model, version))
            self._last = model, version, session
        return session

    def retire(self, model: int, keep: set[int]) -> None:
        """Drop a model's sessions except those of the versions to keep."""
        for version in self._versions.get(model, set()) - keep:
            self._drop(model, version)

    def _drop(self, model: int, version: int) -> None:
        session = self._sessions.pop((model, version), None)
        self._last = None
        if session is not None:
            self._size -= session.nbytes
            self._versions[model].discard(version)
            if not self._versions[model]:
                del self._versions[model]
