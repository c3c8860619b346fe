"""The text that goes into a model and comes out of it: pure functions and small state machines, no I/O.

Conversations to prompts: ``template`` renders ``messages`` in ``template_environment``, within ``template_limits``.
``template_capabilities`` finds out which messages a template supports. ``message_fallbacks`` are simpler forms of a
conversation, and ``dropped_messages`` notices texts that a template leaves out. ``continued_message`` ends a prompt
within a message, ``thinking_kwargs`` switch thinking on and off, ``prompt`` protects texts from special tokens' names.

Tokens to replies: ``detokenize`` makes text, ``stop_strings`` ends it, ``reply_parser`` splits it into ``reply_parts``
by its family's ``reply_markup``, ``reply_pipeline`` chains the three. ``families`` has a module for each family of
models, and ``tool_parsers`` parse their calls. ``chat_format`` joins a model's template, family and vocabulary.

Grammars: ``reply_grammar`` makes the grammar of a reply, ``call_grammar`` that of its calls, and ``call_triggers`` the
places where they begin. ``lark_builder`` writes the rules, ``schemas`` normalizes JSON schemas.
"""
