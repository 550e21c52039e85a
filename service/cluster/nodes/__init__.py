"""Who is there and who should own what: notes that nodes leave in the store, and decisions as plain functions.

Knows neither shards' contents nor calls.
"""
