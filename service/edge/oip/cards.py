"""What the server and its models are, in the protocol's words: plain values, for messages and JSON alike."""

from __future__ import annotations

from typing import Any

from service import version
from service.common.errors import NotFound, ServiceError
from service.common.limits import MAX_REQUEST_TICKS
from service.edge.guard.security import caller
from service.edge.oip import statistics
from service.edge.oip.inferring import Inferring
from service.edge.oip.tensors import Tensor
from service.edge.parts import Places
from service.streams.served import ServedModel

PLATFORM = "freshet"
EXTENSIONS = ("sequence", "statistics", "model_configuration", "binary_tensor_data", "parameters")
TYPES = {"BYTES": "TYPE_STRING"}  # of configurations; the others are TYPE_ and the datatype


class Cards:
    """Answers about the server and the caller's models. Raises what `Inferring.model` raises."""

    def __init__(self, places: Places, inferring: Inferring) -> None:
        self._places, self._inferring = places, inferring

    def server(self) -> dict[str, Any]:
        """Return name, version and extensions."""
        return {"name": PLATFORM, "version": version(), "extensions": list(EXTENSIONS)}

    def ready(self) -> bool:
        """Whether this process accepts streams of some shard."""
        return any(_is_open(parts.admission.check_open) for parts in self._places.here())

    async def model_ready(self, name: str, version: str) -> bool:
        """Whether a model exists, that version of it serves, and its shard accepts streams."""
        try:
            parts, _ = await self._inferring.model(name, version)
        except NotFound:
            return False
        return _is_open(parts.admission.check_open)

    async def metadata(self, name: str, version: str) -> dict[str, Any]:
        """Return the tensors of a model with their shapes; −1 stands for the number of ticks."""
        _, model = await self._inferring.model(name, version)
        tensors = self._inferring.tensors(model)
        return {
            "name": model.name, "versions": [str(model.champion)], "platform": PLATFORM,
            "inputs": [_shaped(tensor) for tensor in tensors.inputs.values()],
            "outputs": [_shaped(tensor) for tensor in tensors.outputs.values()],
        }  # fmt: skip

    async def config(self, name: str, version: str) -> dict[str, Any]:
        """Return the configuration of a model: the same tensors, and that it has sequences."""
        _, model = await self._inferring.model(name, version)
        tensors = self._inferring.tensors(model)
        return {
            "name": model.name, "platform": PLATFORM, "backend": PLATFORM, "max_batch_size": MAX_REQUEST_TICKS,
            "input": [_typed(tensor) | {"optional": tensor.optional} for tensor in tensors.inputs.values()],
            "output": [_typed(tensor) for tensor in tensors.outputs.values()],
            "sequence_batching": {"direct": {}}, "model_transaction_policy": {"decoupled": False},
        }  # fmt: skip

    async def statistics(self, name: str, version: str) -> list[dict[str, Any]]:
        """Return the statistics of a model, or with an empty name of all models here that the caller may see."""
        models = [(await self._inferring.model(name, version))[1]] if name else self._here()
        return [statistics.shown(model, self._inferring.counts.of(model)) for model in models]

    def index(self) -> list[dict[str, str]]:
        """Return the caller's models that this process serves."""
        return [{"name": m.name, "version": str(m.champion), "state": "READY", "reason": ""} for m in self._here()]

    def _here(self) -> list[ServedModel]:
        tenant = caller().tenant
        return sorted(
            (m for parts in self._places.here() for m in parts.catalog.models.values() if m.tenant == tenant),
            key=lambda model: model.name,
        )


def _is_open(check: Any) -> bool:
    try:
        check()
    except ServiceError:
        return False
    return True


def _shaped(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _typed(tensor: Tensor) -> dict[str, Any]:
    kind = TYPES.get(tensor.datatype, f"TYPE_{tensor.datatype}")
    return {"name": tensor.name, "data_type": kind, "dims": list(tensor.dims)}
