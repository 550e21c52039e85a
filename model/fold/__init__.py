"""The learner as a fold over records: contexts of streams, windows, histories, drift, shares.

Knows no file, process or clock; the same records give the same weights.
"""
