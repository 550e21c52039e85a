"""What is kept on disk: the journal, snapshots of serving, and versions."""
