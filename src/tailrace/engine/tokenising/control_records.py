"""What the engine tells the program that tokenises, on the socket between them: one record of fixed size for each."""

from __future__ import annotations

import struct

#: The kind, and the job's number.
RECORD = struct.Struct("<BQ")
#: A job's socket comes with this record.
TOKENISE = 1
#: The job's answers aren't wanted any more.
KILL = 2
