"""SQLite and disk primitives: stream states, versions, snapshots, a full disk, a data directory's permissions.

Knows neither the journal nor what the rows mean to the parts that write them.
"""
