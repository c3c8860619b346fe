"""How a tool call is written: building blocks that families choose from, each a small machine fed with text.

``json_text`` follows one JSON value, ``json_calls`` reads objects with a name and arguments, ``named_call`` a name with
its arguments behind it, ``tagged_call`` a name with an element for each argument.
"""
