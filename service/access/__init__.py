"""Who may do what, how much, and a line for each act: tokens, tenants, rates, certificates, the audit log.

Knows no RPC and no stream.
"""
