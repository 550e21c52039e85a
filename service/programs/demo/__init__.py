"""The demo: series made of what ships, sent through a real server at a pace that people can watch, and what came of it.

Reaches the server only from outside, through the SDK and /metrics; knows no option of the command line.
"""
