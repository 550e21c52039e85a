"""`freshet train`: a model's first weights from a recorded history, before it goes online.

Starts no server.
"""
