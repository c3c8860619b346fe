"""JSON schemas of clients, in the form that a grammar can express.

``normalize`` makes that form, ``merge_schemas`` merges schemas that apply together (``allOf``), ``keywords`` knows the
meaning of each keyword, ``json_pointer`` follows references.
"""
