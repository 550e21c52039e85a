"""The doors: gRPC services and the HTTP side server. Translate, delegate, translate.

Makes no decision that a component can make.
"""
