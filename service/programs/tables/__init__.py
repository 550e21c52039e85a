"""Tables of recorded values: functions from bytes to numbers and times; errors name the cell.

Knows no model and no program.
"""
