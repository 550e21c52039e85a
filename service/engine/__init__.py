"""The ONNX step of a version: export, a checked onnxruntime session, and the sessions that are loaded.

Knows models by number only; does not decide which version serves.
"""
