"""Slices: a model whose streams are served by several shards and learned in one. One `Slicing` for each shard held.

The *home* shard of the model learns and serves no streams of it. It reads the journals of the slices' shards and
appends their entries to its own, which thereby is the order of learning. Slices follow the home's *head*, a note in the
store that says which version serves. Knows no calls.
"""
