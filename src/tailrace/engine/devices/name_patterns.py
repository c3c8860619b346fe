"""Searches a user's regular expressions in the names of a model's tensors.

A regular expression may take longer than any wait, and Python can't stop one in its own process. So a process of its
own searches, and the kernel ends it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection, Sequence

from tailrace.errors import ConfigurationError

#: CPU seconds for all patterns. Sane ones take milliseconds.
_SECONDS = 5
#: Bytes of memory for them.
_MEMORY = 1 << 30
_PROGRAM = """
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]), int(sys.argv[1])))
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
patterns, names = json.load(sys.stdin)
for pattern in patterns:
    search = re.compile(pattern).search
    print(json.dumps([number for number, name in enumerate(names) if search(name)]), flush=True)
"""


def search_names(patterns: Sequence[str], names: Collection[str]) -> list[frozenset[str]]:
    """For each pattern, the names in which it is found. Raises ConfigurationError for one that takes too long."""
    if not patterns:
        return []
    listed = list(names)
    command = [sys.executable, "-I", "-S", "-W", "ignore", "-c", _PROGRAM, str(_SECONDS), str(_MEMORY)]
    process = subprocess.run(command, input=json.dumps((patterns, listed)), capture_output=True, text=True, check=False)
    found = [frozenset(listed[number] for number in json.loads(line)) for line in process.stdout.splitlines()]
    if len(found) < len(patterns):
        raise ConfigurationError(
            f"placement: the search of {patterns[len(found)]!r} in the tensors' names takes more than {_SECONDS} s, or "
            "too much memory: write it without a repetition inside another one"
        )
    return found
