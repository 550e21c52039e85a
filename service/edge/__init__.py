"""gRPC services and the HTTP side server: translate a request, delegate it, translate the answer.

Makes no decision that a component can make.
"""
