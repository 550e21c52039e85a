"""One node of a cluster: the shards that it owns, the calls that it routes, its peers, its life.

Knows no engine of the store, and nothing of what is learned.
"""
