"""Renders conversations to prompts, with the model's own chat template, as transformers does.

Templates differ: some have no system role, some want it first, few know the developer role, some take only lists of
parts. Where a template refuses a conversation, or drops a message, the next simpler form is tried. If none works, the
request fails.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jinja2
from jinja2 import meta, nodes

from tailrace.chat import continued_message, template_limits
from tailrace.chat.dropped_messages import first_dropped
from tailrace.chat.history_calls import as_templates_expect
from tailrace.chat.message_fallbacks import fallbacks
from tailrace.chat.messages import Message, joined_text
from tailrace.chat.prompt import HiddenNames, RenderedPrompt, SpecialTokenNames
from tailrace.chat.template_capabilities import TemplateCapabilities, detect_capabilities
from tailrace.chat.template_environment import ChatEnvironment
from tailrace.errors import InvalidRequest, ModelError

__all__ = ["CHATML", "ChatTemplate", "Message"]

#: For models without a template of their own.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: Characters of a template. The longest known one has 30,000.
MAX_TEMPLATE_CHARACTERS = 1_000_000
#: Characters of a compiler's error message, which may quote the template.
_MAX_REASON = 500
#: Variables of templates for tools; the last is SmolLM3's.
_TOOLS = frozenset({"tools", "xml_tools"})
_NO_CAPABILITIES = TemplateCapabilities(forms={}, tools=False, calls=False, no_tools=None)
#: Exceptions of a template on messages that it doesn't expect: it is a program, and can fail like any other.
_TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class ChatTemplate:
    """A compiled chat template."""

    def __init__(
        self, source: str | None, *, bos_token: str, eos_token: str, special_tokens: Iterable[str] = ()
    ) -> None:
        """``source`` None is ChatML. ``special_tokens``: names that are only text in messages and tools. Raises
        ModelError where ``source`` is no valid template.
        """
        self._special = SpecialTokenNames(special_tokens)
        self.source = source or CHATML
        self._knows_developer = "developer" in self.source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        #: The reason why it can't render anything; None for a valid template.
        self.defect: str | None = None
        #: The variables that the template reads, and all of its string literals.
        self.variables: frozenset[str] = frozenset()
        self.literals: frozenset[str] = frozenset()
        self._capabilities = _NO_CAPABILITIES
        self._template = self._compiled()
        budget = template_limits.current.set(template_limits.RenderBudget(0))
        try:
            self._capabilities = detect_capabilities(
                self._attempt, names_tools=bool(_TOOLS.intersection(self.variables))
            )
        finally:
            template_limits.current.reset(budget)

    @classmethod
    def of_model(
        cls,
        source: str | None,
        *,
        bos_token: str,
        eos_token: str,
        special_tokens: Iterable[str] = (),
        defect: str | None = None,
    ) -> ChatTemplate:
        """The same, but an invalid ``source`` is accepted: ``defect`` has the reason, and each conversation is refused.
        The model can still complete texts. A ``source`` whose ``defect`` is known isn't compiled.
        """
        try:
            if defect is not None:
                raise ModelError(defect)
            return cls(source, bos_token=bos_token, eos_token=eos_token, special_tokens=special_tokens)
        except ModelError as error:
            broken = cls("", bos_token=bos_token, eos_token=eos_token, special_tokens=special_tokens)
            broken.source = source or ""
            broken.defect = str(error)
            return broken

    def _compiled(self) -> jinja2.Template:
        if len(self.source) > MAX_TEMPLATE_CHARACTERS:
            raise ModelError(f"the model's chat template has more than {MAX_TEMPLATE_CHARACTERS} characters")
        environment = ChatEnvironment()
        try:
            parsed = environment.parse(self.source)
            compiled = environment.from_string(self.source)
            # The search for variables folds constants together, so constants are gathered first.
            constants = parsed.find_all(nodes.Const)
            self.literals = frozenset(constant.value for constant in constants if isinstance(constant.value, str))
            self.variables = frozenset(meta.find_undeclared_variables(parsed))
        except (*_TEMPLATE_ERRORS, SyntaxError) as error:
            reason = str(error) or type(error).__name__
            raise ModelError(f"the model's chat template can't be compiled: {reason[:_MAX_REASON]}") from error
        return compiled

    @property
    def supports_calls(self) -> bool:
        """Whether it shows earlier calls and their results."""
        return self._capabilities.calls

    @property
    def supports_tools(self) -> bool:
        """Whether it shows the offered tools."""
        return self._capabilities.tools

    def render(
        self,
        messages: list[Message],
        tools: list[Any] | None = None,
        variables: dict[str, Any] | None = None,
        *,
        opening: bool = True,
        continued: str | None = None,
    ) -> RenderedPrompt:
        """The prompt for the next assistant message. ``variables``: further variables of the template, such as
        ``enable_thinking``. Without ``opening`` the prompt ends after the last message. With ``continued`` it ends
        within that field of the last message (``content`` or ``reasoning_content``).

        Raises InvalidRequest where the template refuses, or drops a message.
        """
        if self.defect is not None:
            raise InvalidRequest(
                f"This model can't hold conversations: {self.defect}. Start the server with another template "
                "(--chat-template FILE), or use text completions.",
                param="messages",
                code="chat_template_unusable",
            )
        if not self._knows_developer:
            messages = [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]
        (messages, tools, variables), hidden = self._special.hide((messages, tools, variables))
        budget = template_limits.current.set(
            template_limits.RenderBudget(sum(len(joined_text(message["content"])) for message in messages))
        )
        try:
            return self._rendered(_Call(self, tools, variables or {}), messages, hidden, opening, continued)
        finally:
            template_limits.current.reset(budget)

    def _rendered(
        self, call: _Call, messages: list[Message], hidden: HiddenNames | None, opening: bool, continued: str | None
    ) -> RenderedPrompt:
        left_out: Message | None = None
        for form in fallbacks(messages):
            form = self._capabilities.fit(form)
            reply_position: tuple[int, int] | None = None
            if continued is None:
                text = call.render(form, opening=opening)
            else:
                text = continued_message.render_continued(
                    form, continued, lambda tagged: call.render(tagged, opening=False)
                )
                if text is not None:
                    reply_position = continued_message.reply_position(
                        text, call.render(form[:-1], opening=True), form[-1], continued
                    )
            if text is None:
                continue
            seen = form if continued is None else form[:-1]
            lacks = first_dropped(text, seen, lambda marked: call.render(marked, opening=opening))
            if lacks is None:
                return _revealed(text, reply_position, hidden)
            left_out = left_out or seen[lacks]
        if left_out is not None:
            raise InvalidRequest(
                "the model's chat template leaves out what the message of role "
                f"'{left_out['role']}' says; send it in another role, or give the server another template "
                "(--chat-template).",
                param="messages",
            )
        if call.refusal is None:
            raise InvalidRequest(
                "the model's chat template doesn't show the text of the last message, so it can't be continued.",
                param="messages",
            )
        raise InvalidRequest(f"the model's chat template refuses these messages: {call.refusal}", param="messages")

    def _attempt(self, messages: list[Message], tools: list[Any] | None) -> str | None:
        return _Call(self, tools, {}).render(messages, opening=True)


class _Call:
    """The template with one request's tools and variables. ``refusal``: the first error of the template."""

    def __init__(
        self,
        template: ChatTemplate,
        tools: list[Any] | None,
        variables: dict[str, Any],
    ) -> None:
        self._template = template
        tools = template._capabilities.no_tools if tools is None else tools
        named = dict.fromkeys(_TOOLS.intersection(template.variables), tools) if tools else {}
        self._variables = {**named, **variables, **template._tokens, "tools": tools}
        self.refusal: Exception | None = None

    def render(self, messages: list[Message], *, opening: bool) -> str | None:
        """The text; None where the template refuses."""
        try:
            return self._template._template.render(
                {
                    **self._variables,
                    "messages": [as_templates_expect(message) for message in messages],
                    "add_generation_prompt": opening,
                }
            )
        except _TEMPLATE_ERRORS as error:
            self.refusal = self.refusal or error
            return None


def _revealed(text: str, reply_position: tuple[int, int] | None, hidden: HiddenNames | None) -> RenderedPrompt:
    """The prompt with special tokens' names. ``reply_position``: where the reply and the message's text begin."""
    prompt = RenderedPrompt(text) if hidden is None else hidden.reveal(text)
    if reply_position is None:
        return prompt
    if hidden is not None:
        reply, message = (
            len(hidden.reveal(text[: hidden.before_placeholder(text, place)]).text) for place in reply_position
        )
        reply_position = reply, message
    return prompt.continued_at(*reply_position)
