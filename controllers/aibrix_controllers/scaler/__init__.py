"""How many replicas a service has: ScalingPolicies, load and demand in, numbers of replicas out."""
