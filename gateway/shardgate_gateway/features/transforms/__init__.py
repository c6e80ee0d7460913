"""Registering transforms, and everything one can ask about one."""

from shardgate_gateway.features.transforms.feature import Transforms

FEATURE = Transforms()
