"""What the readers of a gateway want of transforms that run as pods: the leader asks all gateways."""

from shardgate_gateway.features.demand.feature import Demand

FEATURE = Demand()
