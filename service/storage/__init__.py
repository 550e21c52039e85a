"""SQLite and disk primitives: stream states, versions, snapshots, full disks, permissions of a data directory.

Knows neither the journal nor the meaning of the rows to the components that write them.
"""
