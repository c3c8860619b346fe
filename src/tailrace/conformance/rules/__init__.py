"""The rules, a module a theme. Each asks through the session, judges, and says what it saw."""
