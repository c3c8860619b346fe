"""Tokenisation of prompts, so that no text can harm the process that runs the model.

``special_tokens`` finds special tokens in one pass, and ``vocab`` tokenises a whole text with them. ``word_piece`` is
the tokenizer of BERT's vocabularies. ``tokenizer`` takes requests: it tokenises short texts at once, and others in
``tokenizer_sandbox``, within ``text_limits``. The program of that process is ``backends.llama.tokenize_worker``.
``jobs`` and ``control_records`` are the messages to it.
"""
