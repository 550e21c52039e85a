"""Words that every room uses: errors, names, bounds, addresses, bounded reading of documents.

Knows the model's sizes and nothing of the server's parts; does no I/O but reading a file that a person wrote.
"""
