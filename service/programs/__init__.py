"""The programs that the larger verbs run, a room each."""
