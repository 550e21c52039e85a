"""The doors: gRPC services and the HTTP side server. Translate, delegate, translate."""
