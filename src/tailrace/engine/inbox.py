"""What other threads hand to the engine loop."""

from __future__ import annotations

import queue

from tailrace.engine.embeddings import EmbeddingJob
from tailrace.engine.kv_cache.disk_tier import Fetched
from tailrace.engine.sequence import Sequence
from tailrace.engine.structured.mask_threads import MaskReady

#: A sequence to run, the id of a request to cancel, a prefix state from the disk tier, the mask of a sequence that has
#: sat out, texts to embed or score, or None: the connection has ended.
InboxItem = Sequence | int | Fetched | MaskReady | list[EmbeddingJob] | None
Inbox = queue.SimpleQueue[InboxItem]
