"""JSON schemas as clients send them, in the form that a grammar can hold.

``hold`` makes that form, ``merge`` joins schemas that hold together (``allOf``), ``keywords`` says which words
constrain.
"""
