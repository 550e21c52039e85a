"""Division of the step graph of one row: arithmetic with single numbers, as a Python function, and a smaller graph.

onnxruntime spends a third of a microsecond on a node, however little it computes; Python spends a fifth of that on an
operation with numbers. Most nodes of a scaler of one channel compute one number. Knows no network; runs nothing.
"""
