"""Environments on their way from the Job that made them to the pods that use them."""

from shardgate_gateway.features.environments.feature import EnvironmentStore

FEATURE = EnvironmentStore()
