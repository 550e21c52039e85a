"""The live path: a tick becomes a journaled answer; large steps, loading on demand, erasing.

Knows nothing of learning, and no message of the wire.
"""
