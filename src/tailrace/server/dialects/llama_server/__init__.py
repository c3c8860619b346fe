"""llama-server's own routes, which editor plugins and SillyTavern use: completion, infill, embedding, and the server's
properties and slots. The fields follow llama-server's source.
"""
