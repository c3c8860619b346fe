"""Structured output: grammars that constrain replies, by llguidance. Only this package touches that library.

``grammar_translation`` turns a request's grammar into llguidance's form. ``grammar_sandbox`` tries it in a process of
its own (program: ``grammar_sandbox_worker``). ``grammar_compiler`` compiles it on a thread beside the loop.
``constraint`` is one reply's state. ``mask_threads`` computes masks while the model computes logits. ``matcher`` makes
the library's objects.

``lazy_grammar`` constrains only the calls of a reply. ``trigger_watcher`` finds where they begin.
``unique_keys`` keeps an object's keys unique. ``token_index`` finds tokens by their bytes.
"""
