"""One room for each dialect: it decodes requests into ``GenerationRequest``, encodes events, and names its routes in a
``routes`` module; nothing else.
"""
