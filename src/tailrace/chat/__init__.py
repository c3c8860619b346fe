"""Text in and out of a model: pure functions and small state machines, no I/O.

``template`` renders conversations, ``detokenize`` turns tokens into text, ``stops`` finds stop strings, ``parse``
splits a reply into text, reasoning and tool calls, ``pipeline`` chains the three.
"""
