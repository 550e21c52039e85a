"""Export of a network's step as ONNX, the same computation node by node; checks of an imported graph.

Only this room and `model.foreign` import onnx.
"""
