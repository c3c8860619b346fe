"""What the processes tell of themselves: ``logs`` and ``metrics``."""
