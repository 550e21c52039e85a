"""Versions into service: creation, verdicts, rollback, promotion and import.

Knows no call and no trainer process; it gets verdicts as values.
"""
