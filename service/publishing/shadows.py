"""Shadows: models that learn from the ticks of another model, their source, and answer no calls.

What is journaled of the source's streams is journaled for each shadow too, under the same stream numbers and in the
same commit. So a shadow is an ordinary model to the trainer, and its weights are a function of its own records. Price:
the bytes of each tick once more, and its learning; serving computes nothing for a shadow.
"""

from __future__ import annotations

from model.spec import ModelSpec
from service.common.errors import Invalid
from service.common.names import ModelKey
from service.serving.catalog import Catalog
from service.streams.served import ServedModel

SAME = ("channels", "task", "missing", "known", "static", "categories")  # keys that must be the source's
LABELLED = ("targets", "classes")  # also for tasks whose labels come from outside: each label goes to both


def check_source(catalog: Catalog, key: ModelKey, spec: ModelSpec) -> None:
    """Check that the source of a shadow to be made exists and suits it; do nothing for a spec without one.

    Raises NotFound, Invalid.
    """
    if not spec.shadow:
        return
    source = catalog.model(ModelKey(key.tenant, spec.shadow))
    theirs = source.spec
    if source.slices.count:
        remedy = "its streams are served in slices: make another model without slices, and a shadow of that"
        raise Invalid("spec.shadow", spec.shadow, remedy)
    if theirs.shadow:
        remedy = f"it is itself a shadow: name its source, {theirs.shadow}"
        raise Invalid("spec.shadow", spec.shadow, remedy)
    steps = ("horizon",) if theirs.known else ()  # a tick holds the known values of each step
    for name in SAME + steps + (LABELLED if spec.task != "forecast" else ()):
        if getattr(spec, name) != getattr(theirs, name):
            remedy = (
                f"model {spec.shadow} has {getattr(theirs, name)!r}, and a shadow sees the same ticks: give the same"
            )
            raise Invalid(f"spec.{name}", getattr(spec, name), remedy)
    if spec.interval and not theirs.interval:
        remedy = f"ticks of model {spec.shadow} need no time, as its interval is 0: leave it out"
        raise Invalid("spec.interval", spec.interval, remedy)


def check_unwatched(model: ServedModel) -> None:
    """Raise Invalid for a model that has shadows."""
    if model.shadows:
        names = ", ".join(shadow.name for shadow in model.shadows)
        remedy = f"it has shadows: delete {names} first, or end that with Models.Update, shadow = ''"
        raise Invalid("name", model.name, remedy)
