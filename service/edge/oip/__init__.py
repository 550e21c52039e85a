"""The Open Inference Protocol, gRPC and REST: a sequence of its clients is a stream of ours.

Translates to what `Streams.Open` uses. Knows no journal record, and nothing of how a model learns.
"""
