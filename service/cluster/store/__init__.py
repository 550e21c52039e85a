"""The store that nodes share: journals of shards by offset, immutable blobs, small notes; one backend per engine.

Knows neither the meaning of the bytes nor who owns a shard.
"""
