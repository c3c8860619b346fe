"""The metrics of a cluster: its replicas' texts as one, and what the ingress counts itself."""
