"""Move models between data directories and a store, and copy a cluster: nothing is learned again, nothing is lost.

A model keeps its records with their offsets, its versions, streams and learned progress; only its number may change,
because numbers are counted in each journal. Knows no running server.
"""
