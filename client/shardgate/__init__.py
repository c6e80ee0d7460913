"""shardgate: read shards through the gateway, transformed where the data is."""
