"""The HTTP process: speaks every client's dialect over one event model, and loads no inference code.

``process`` starts it, ``app`` puts the routes together, ``guard`` checks who may come in and how large, ``dialects``
decode requests and encode events, ``generate`` is the one use case behind them, ``client`` is the way to the engines,
``routing`` chooses between them, ``mailbox`` is where a request's messages wait.
"""
