"""The data of one shard: its stores, recovery from them, snapshots and deletion; and the memory of the process.

Knows nothing of doors, settings files, or other shards.
"""
