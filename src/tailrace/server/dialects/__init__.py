"""One file for each dialect: it decodes requests into ``GenerationRequest`` and encodes events, and nothing else."""
