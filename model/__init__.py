"""The learning core: recurrent forecasters and how they learn, in NumPy.

Functions are pure: no I/O, clock, threads, logging or global randomness. Only `graph` may use onnx. State that
outlives a call is data that the caller owns.
"""
