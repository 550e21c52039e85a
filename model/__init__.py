"""The learning core: recurrent forecasters and how they learn, in NumPy.

Pure functions of their arguments: no I/O, clock, threads, logging or global randomness in here. Only `graph` may
use onnx. What must be kept between calls is data that the caller owns.
"""
