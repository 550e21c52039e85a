"""The learner as a fold over records: contexts of streams, histories, windows, drift, shares.

Knows no file, process or clock. The same records give the same weights.
"""
