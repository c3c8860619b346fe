"""Several machines as one server: replicas of models, the ingress in front of them, and what they agree on.

``config`` is the cluster's file. ``deployments`` places replicas and ingresses by Ray, and is the only package that
imports Ray. A request never passes through Ray: the ingress speaks HTTP with the replicas. Nothing of this package is
imported on one machine.
"""
