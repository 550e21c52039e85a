"""The page and the JSON API over HTTP: who may ask, what was asked, answers, acts, event streams, static files.

Translates only: what is seen of a model is `viewing`'s, what is done with one is `publishing`'s. Does not know how the
server is built, and never reads a message of gRPC but those of the list of a cluster's models.
"""
