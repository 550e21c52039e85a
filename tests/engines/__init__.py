"""Real engines that the tests start, and faults between a node and its store."""
