"""Event times as calendar inputs: local time of day, day of the week, holidays. Must not know specs or models."""

from model.calendar.features import DAY_S, WEEK_S, inputs, size
from model.calendar.zone import local

__all__ = ["DAY_S", "WEEK_S", "inputs", "local", "size"]
