"""Export of a network's step as ONNX, the same computation node by node; checks of an imported graph.

The only room of `model` that imports onnx.
"""
