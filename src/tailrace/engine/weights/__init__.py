"""Which file a model's weights are loaded from: quality and speed of the formats, measured, and the choice."""
