"""The engine's orders to the program that tokenises: records of fixed size on the socket between them."""

from __future__ import annotations

import struct

#: The kind of the order, and the job's number.
RECORD = struct.Struct("<BQ")
#: Start a job. The job's own socket comes with this record.
TOKENISE = 1
#: End a job: its answers aren't wanted any more.
KILL = 2
