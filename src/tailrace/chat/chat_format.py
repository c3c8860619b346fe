"""How one model chats: its vocabulary, its chat template and the family that reads its replies, put together once.

The server, ``tailrace run`` and the engine's benchmark all make their prompts and read their replies through it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

from tailrace.chat import thinking_kwargs
from tailrace.chat.detokenize import PieceTable
from tailrace.chat.families import family_of
from tailrace.chat.prompt import RenderedPrompt
from tailrace.chat.reply_parser import open_thought
from tailrace.chat.template import ChatTemplate
from tailrace.chat.template_trial import find_defect
from tailrace.protocol import ModelInfo


class ChatFormat:
    """See the module. ``control_tokens`` maps the names of tokens that control the model to their ids."""

    def __init__(self, info: ModelInfo, pieces: Sequence[bytes]) -> None:
        """``pieces[t]`` is the text of token t as bytes."""
        self.info = info
        self.vocabulary = PieceTable(pieces, info.special_tokens)
        self.control_tokens = {text: token for token, text in info.special_tokens.items()}
        self._vocabularies: dict[frozenset[str], PieceTable] = {}
        self._set_template(info.chat_template, info.chat_template_defect)

    def _set_template(self, source: str | None, defect: str | None = None) -> None:
        self.template = ChatTemplate.of_model(
            source,
            bos_token=self.info.bos_token,
            eos_token=self.info.eos_token,
            special_tokens=self.info.special_tokens.values(),
            defect=defect,
        )
        self.family = family_of(self.template)
        self._has_thinking_switch = thinking_kwargs.has_thinking_switch(self.template)

    def with_template(self, source: str) -> Self:
        """A copy that renders conversations with the template in ``source``, whose family reads the replies. The
        template is tried first, in a process of its own, which takes half a second.
        """
        defect = find_defect(
            source,
            bos_token=self.info.bos_token,
            eos_token=self.info.eos_token,
            special_tokens=self.info.special_tokens.values(),
        )
        changed = copy.copy(self)
        changed._set_template(source, defect)
        return changed

    def without_thought(self, prompt: RenderedPrompt) -> RenderedPrompt:
        """The prompt of a reply that begins without a thought.

        A thought that the template has opened is closed. Where the template has no switch for thinking, though its
        model thinks, the prompt ends with an empty thought.
        """
        thoughts = self.family.markup({}).thoughts
        if open_thought(prompt.text, thoughts) is not None:
            return prompt.append_markup(self.family.text_prefix_after(prompt.text))
        end = prompt.text.rstrip()
        for thought in () if self._has_thinking_switch else thoughts:
            if thought.start in self.template.source and not end.endswith(thought.end):
                return prompt.append_markup(f"{thought.start}\n\n{thought.end}\n\n")
        return prompt

    def vocabulary_showing(self, markers: frozenset[str]) -> PieceTable:
        """The vocabulary in which those of the markers that are control tokens are text: a parser looks for them."""
        markers = markers.intersection(self.control_tokens)
        if not markers:
            return self.vocabulary
        if markers not in self._vocabularies:
            texts = {self.control_tokens[marker]: marker for marker in markers}
            self._vocabularies[markers] = self.vocabulary.with_visible(texts)
        return self._vocabularies[markers]
