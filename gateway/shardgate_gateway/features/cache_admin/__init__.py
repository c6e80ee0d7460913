"""What the cache holds, and telling it what to fetch or to drop ahead of time."""

from shardgate_gateway.features.cache_admin.feature import CacheAdmin

FEATURE = CacheAdmin()
