"""The model that an engine serves, made ready for use: vocabulary, template, family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tailrace.chat import thinking_kwargs
from tailrace.chat.detokenize import PieceTable
from tailrace.chat.families import family_of
from tailrace.chat.prompt import RenderedPrompt
from tailrace.chat.reply_parser import open_thought
from tailrace.chat.template import ChatTemplate, Message
from tailrace.protocol import Hello, ModelInfo


class Beginning(Protocol):
    """Begins conversations."""

    def begin(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation behind what stands before every one."""
        ...


class ServedModel:
    """What one Hello brought, made ready for use."""

    def __init__(self, hello: Hello) -> None:
        self.info: ModelInfo = hello.model
        self.vocabulary = PieceTable(hello.vocabulary, hello.model.special_tokens)
        self.template = ChatTemplate.of_model(
            hello.model.chat_template,
            bos_token=hello.model.bos_token,
            eos_token=hello.model.eos_token,
            special_tokens=hello.model.special_tokens.values(),
        )
        self.family = family_of(self.template)
        self._switches = thinking_kwargs.has_thinking_switch(self.template)
        self.controls = {text: token for token, text in hello.model.special_tokens.items()}
        self.preset: Beginning | None = None  #: what a name that was made of this model changes
        self._shown: dict[frozenset[str], PieceTable] = {}

    def use_template(self, template: ChatTemplate) -> None:
        """Render conversations with another template, whose family reads the replies."""
        self.template = template
        self.family = family_of(template)
        self._switches = thinking_kwargs.has_thinking_switch(template)

    def without_thought(self, prompt: RenderedPrompt) -> RenderedPrompt:
        """The prompt of a reply that shall begin without a thought. What the template has opened is closed. A template
        that has no switch for it, though its model thinks, gets an empty thought behind it.
        """
        thoughts = self.family.markup({}).thoughts
        if open_thought(prompt.text, thoughts) is not None:
            return prompt.append_markup(self.family.reply_head(prompt.text))
        end = prompt.text.rstrip()
        for thought in () if self._switches else thoughts:
            if thought.opens in self.template.source and not end.endswith(thought.ends):
                return prompt.append_markup(f"{thought.opens}\n\n{thought.ends}\n\n")
        return prompt

    def vocabulary_showing(self, markers: frozenset[str]) -> PieceTable:
        """The vocabulary in which those of the markers that are control tokens are text: a parser looks for them."""
        markers = markers.intersection(self.controls)
        if not markers:
            return self.vocabulary
        if markers not in self._shown:
            texts = {self.controls[marker]: marker for marker in markers}
            self._shown[markers] = self.vocabulary.showing(texts)
        return self._shown[markers]
