"""A call becomes a stored result: once, in shards, over a series, by workers."""
