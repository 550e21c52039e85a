"""Running a version: an onnxruntime session, checked before it serves, called on the event loop; the idlest leave."""

from __future__ import annotations

from collections import OrderedDict

from service.engine.export import Canary
from service.engine.session import PARITY, BadVersion, StepSession, parity

SESSION_MEMORY_BYTES = 1 << 28
KEPT = 4  # sessions loaded, however large: models that tick in turn must not be loaded for every tick


class Engine:
    """Sessions of the versions that serve, by model and number, as far as they are loaded.

    Beyond `limit_bytes` the least recently used leave, but for the last KEPT; whoever wants one again loads it again.
    Loading may happen on any thread; everything else on the loop's.
    """

    def __init__(self, limit_bytes: int = SESSION_MEMORY_BYTES) -> None:
        self._limit, self._size = limit_bytes, 0
        self._sessions: OrderedDict[tuple[int, int], StepSession] = OrderedDict()  # least recently used first
        self._versions: dict[int, set[int]] = {}  # that are loaded, by model

    def __len__(self) -> int:
        return len(self._sessions)

    def prepare(self, onnx: bytes, canary: Canary) -> tuple[StepSession, float]:
        """Load a graph, compare it with its recorded answers: the session and the parity error. Raises BadVersion."""
        session = StepSession(onnx)
        error = parity(session, canary)
        if error > PARITY:
            raise BadVersion(
                f"answers differ from the recorded ones by {error:.1e}, allowed {PARITY:.0e} in scaled units"
            )
        return session, error

    def install(self, model: int, version: int, session: StepSession) -> None:
        """Make a prepared session available under its version number; others leave where there is no room."""
        self._drop(model, version)
        self._sessions[model, version] = session
        self._versions.setdefault(model, set()).add(version)
        self._size += session.nbytes
        while self._size > self._limit and len(self._sessions) > KEPT:
            self._drop(*next(iter(self._sessions)))

    def offer(self, model: int, version: int, session: StepSession) -> None:
        """`install`, where that makes no other model's session leave."""
        if len(self._sessions) < KEPT or self._size + session.nbytes <= self._limit:
            self.install(model, version, session)

    def replace(self, model: int, version: int, session: StepSession) -> None:
        """From here on this version serves: it takes the place of the model's session, if one is loaded. A model that
        nobody uses is not loaded for it."""
        if model in self._versions:
            self.retire(model, set())  # first, or another model's would leave for want of room
            self.install(model, version, session)

    def get(self, model: int, version: int) -> StepSession | None:
        """The session of a version, if it is loaded: it is the last to leave then."""
        session = self._sessions.get((model, version))
        if session is not None:
            self._sessions.move_to_end((model, version))
        return session

    def retire(self, model: int, keep: set[int]) -> None:
        """Drop a model's sessions except those of the versions to keep."""
        for version in self._versions.get(model, set()) - keep:
            self._drop(model, version)

    def _drop(self, model: int, version: int) -> None:
        session = self._sessions.pop((model, version), None)
        if session is not None:
            self._size -= session.nbytes
            self._versions[model].discard(version)
            if not self._versions[model]:
                del self._versions[model]
