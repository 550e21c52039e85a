"""Before a call reaches a service: who calls, how many calls and bytes, statuses, strangers, audit lines.

Knows no service and no message but through the interceptor's contract.
"""
