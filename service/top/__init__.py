"""`freshet top`: a running server on a terminal."""
