"""The streams of one model: rows in columns, last answers, the order of ticks, and which streams are in memory.

Knows no task, call or clock; time is an argument.
"""
