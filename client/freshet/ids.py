"""What may be the id of a stream, looked at before anything is sent."""

from __future__ import annotations

from freshet.errors import InvalidArgument

LONGEST = 256  # characters, as the server takes them


def refused_id(id: object, field: str = "stream") -> InvalidArgument | None:
    """Why a server would refuse this id of a stream, or None."""
    if not isinstance(id, str):
        remedy = "ids are text: give str(id)" if hasattr(id, "__int__") else "ids are text"
    elif not id or len(id) > LONGEST or not id.isprintable():
        remedy = f"give 1 to {LONGEST} printable characters"
    else:
        return None
    value = _shown(id)
    return InvalidArgument(f"{field} = {value}; {remedy}", field, value, remedy)


def _shown(value: object) -> str:
    try:
        shown = repr(value)
    except Exception:  # whatever a stranger's object does, its row is refused by its type
        shown = f"<{type(value).__name__}>"
    return shown if len(shown) <= 80 else f"{shown[:80]} …"
