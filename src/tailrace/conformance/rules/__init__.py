"""The rules, one module a theme. A rule sends requests through the session, judges, and returns its observation."""
