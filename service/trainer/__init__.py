"""The second process: it learns. Messages between the two, the child's loop, and the parent's side of it."""
