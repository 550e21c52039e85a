"""A network's step as ONNX, node by node the same computation as the NumPy step; importing a graph from outside.

The only room of `model` that imports onnx.
"""
