"""Programs behind the larger verbs, a room each."""
