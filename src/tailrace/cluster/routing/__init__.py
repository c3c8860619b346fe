"""The choice of a replica for a request: pure functions over prompts' chains and replicas' views, without sockets."""
