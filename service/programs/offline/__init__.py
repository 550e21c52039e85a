"""`freshet train`: train a model's initial weights on a recorded history, before it goes online.

Starts no server.
"""
