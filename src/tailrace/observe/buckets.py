"""The bounds of the histograms' buckets: vLLM's, so that its recording rules and heat maps fit.

Source: vLLM's ``vllm/v1/metrics/loggers.py``. vLLM's bounds of lengths end at the model's context. Ours are the same
for all models, so that servers can be added up.
"""

from __future__ import annotations

#: Time to the first token.
FIRST_TOKEN_SECONDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
#: Time between two tokens, and the mean of it over a reply.
TOKEN_SECONDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
#: Whole requests, and their parts.
REQUEST_SECONDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
#: Tokens of a step's batch. The engine counts into these.
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
#: Tokens of a prompt or of a reply.
LENGTHS = tuple(mantissa * 10**exponent for exponent in range(6) for mantissa in (1, 2, 5))
#: Replies to one prompt.
CHOICES = (1, 2, 5, 10, 20)
