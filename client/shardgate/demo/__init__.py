"""`shardgate demo`: the whole path on one machine, with real photographs."""
