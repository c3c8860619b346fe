"""Texts to tokens, so that no text can harm the process that runs the model.

``specials`` finds special tokens in one pass, ``vocab`` tokenises a whole text with them, ``tokenizer`` takes requests
and decides where: short texts here, others in a process of their own, which ``sandbox`` starts. The program of that
process is ``llama.tokenise``.
"""
