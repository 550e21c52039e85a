"""The meaning and the cost of a network's output: head, tasks, target statistics, losses.

Knows neither the inside of a cell nor a learning rule.
"""
