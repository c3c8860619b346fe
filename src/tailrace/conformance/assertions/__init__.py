"""Assertions that several dialects' rules share. Each returns the observation, and raises RuleBroken when it fails."""
