"""Models on disk: what can be fetched, where it is kept, and what a file says of itself. Loads no model."""
