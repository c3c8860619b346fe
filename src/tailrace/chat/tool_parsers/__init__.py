"""Parsers of tool calls: building blocks that families choose from. Each is a state machine that is fed with text.

``json_calls`` parses objects with a name and arguments, ``named_call`` a name before its arguments, ``xml_call``
a name with an element for each argument. ``json_scanner`` and ``value_scanner`` scan one value, ``argument_value``
turns bare text into JSON, ``xml_call_tags`` are the tags of elements. ``base`` is the protocol of all.
"""
