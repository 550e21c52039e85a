"""Permissions, quotas and the audit log: tokens, tenants, rates, certificates.

Knows no RPC and no stream.
"""
