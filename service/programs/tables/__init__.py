"""Tables of recorded values: plain functions from bytes to numbers and times, and refusals that name a cell.

Knows no model and no program.
"""
