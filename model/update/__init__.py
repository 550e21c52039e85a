"""One update: rounds of rows, truncated backpropagation, gradient, optimizer, schedule.

Knows no stream and no order of records.
"""
