"""llama-server's own routes, which editors' plugins and SillyTavern speak: completions, infilling and what the server
tells of itself. llama-server's source is the judge of their fields.
"""
