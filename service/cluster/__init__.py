"""Many nodes over one store: engines that hold the journals, shards opened from them, and who owns which."""
