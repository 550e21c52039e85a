"""`freshet import`: weights of PyTorch, Keras or an ONNX graph as the files of a model. Starts no server."""
