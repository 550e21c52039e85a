"""One shard over a store: its claim, its journal, images of its databases, its versions; a local folder from them.

Knows neither which shards a node should own nor what calls do; a folder that it has opened is a plain data directory.
"""
