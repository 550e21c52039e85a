"""Interceptors before every service: authentication, limits of calls and bytes, statuses, strangers, audit lines.

Knows no service, and no message but through the interceptor's contract.
"""
