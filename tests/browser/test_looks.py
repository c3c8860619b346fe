"""How the page looks and is operated: sizes, themes, languages, and what axe says of each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import ViewportSize, expect

from openai_wire import say
from page_visit import ChatPage, Visit, violations
from servers import ServerProcess

PHONE: ViewportSize = {"width": 375, "height": 740}
#: Something of everything that a reply may have.
SAMPLE = """# Title

Text with `code`, **bold**, a [link](https://example.org), a formula $x^2$ and a ~~mistake~~.

- [x] done
- open

| name | value |
|---|--:|
| a rather long name of something | 12345678901234567890123456789012345678901234567890 |

```python
def long_function_name(argument: int) -> int:  # a comment that is longer than a phone is wide, by far
    return argument + 1
```

> quoted

$$\\sum_{i=0}^{n} i = \\frac{n(n+1)}{2}$$
"""


def fits(chat: ChatPage) -> bool:
    """Whether nothing is wider than the window."""
    return bool(chat.page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth"))


def test_the_chat_on_a_phone(scripted: ServerProcess, visit: Callable[..., Visit]) -> None:
    chat = visit(scripted.port, viewport=PHONE, has_touch=True, is_mobile=True).open()
    assert fits(chat)
    chat.ask(f"Hello {say(SAMPLE)}")
    assert fits(chat)
    # What is wide is scrolled in its own place.
    table = chat.replies.first.get_by_role("group", name="Table")
    assert table.evaluate("element => element.scrollWidth > element.clientWidth")
    panel = chat.page.get_by_role("dialog", name="Conversations")
    expect(panel).to_be_hidden()
    chat.button("Show conversations").tap()
    expect(panel).to_be_visible()
    panel.get_by_role("link", name="Hello").tap()
    expect(panel).to_be_hidden()
    chat.button("Parameters").tap()
    panel = chat.page.get_by_role("dialog", name="Parameters")
    expect(panel).to_be_visible()
    assert fits(chat)
    # A tap beside the panel closes it.
    chat.page.touchscreen.tap(5, 300)
    expect(panel).to_be_hidden()
    box = chat.field.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= PHONE["height"]


@pytest.mark.parametrize(("theme", "language"), [("light", "en"), ("dark", "zh")])
def test_axe_finds_nothing_in_the_chat(
    scripted: ServerProcess, visit: Callable[..., Visit], axe: str, theme: str, language: str
) -> None:
    # The policy lets axe's source in by the tools of the browser alone.
    visitor = visit(scripted.port, color_scheme=theme, bypass_csp=True)
    chat = visitor.open()
    empty = violations(chat.page, axe)
    chat.send(f"Hello {say('<think>Hm.</think>' + SAMPLE)}")
    chat.ended()
    chat.replies.first.locator("summary").click()
    chat.replies.first.get_by_role("button", name="Regenerate").click()
    chat.page.get_by_role("img", name="Version 2 of 2").wait_for()
    chat.ended()
    chat.own.first.get_by_role("button", name="Edit").click()
    chat.button("Parameters").click()
    chat.page.locator(".menu summary").first.click()
    chat.page.get_by_label("Language").select_option(language)
    expect(chat.page.locator("html")).to_have_attribute("lang", {"en": "en", "zh": "zh-CN"}[language])
    full = violations(chat.page, axe)
    chat.page.keyboard.press("Alt+k")
    chat.page.get_by_role("dialog").wait_for()
    dialog = violations(chat.page, axe)
    chat.page.keyboard.press("Escape")
    chat.page.set_viewport_size(PHONE)
    assert [*empty, *full, *dialog, *violations(chat.page, axe)] == []


def test_the_page_speaks_the_browsers_language_and_keeps_another_choice(
    scripted: ServerProcess, visit: Callable[..., Visit]
) -> None:
    chat = visit(scripted.port, locale="zh-CN").open()
    expect(chat.page.get_by_placeholder("输入消息")).to_be_visible()
    chat.page.get_by_label("语言").select_option("en")
    expect(chat.field).to_be_visible()
    chat.page.reload()
    expect(chat.field).to_be_visible()


def test_a_chosen_theme_wins_over_the_systems(scripted: ServerProcess, visit: Callable[..., Visit]) -> None:
    chat = visit(scripted.port, color_scheme="light").open()

    def ground() -> str:
        return str(chat.page.evaluate("() => getComputedStyle(document.body).backgroundColor"))

    light = ground()
    chat.page.get_by_label("Appearance").select_option("dark")
    dark = ground()
    assert dark != light
    chat.page.reload()
    expect(chat.field).to_be_visible()
    assert ground() == dark


def test_a_reply_is_said_to_screen_readers_once_it_is_whole(
    scripted: ServerProcess, visit: Callable[..., Visit]
) -> None:
    chat = visit(scripted.port).open()
    chat.ask(say("Good morning."))
    expect(chat.page.locator('[aria-live="polite"]')).to_have_text("Reply: Good morning.")


def test_a_long_conversation_stays_smooth(scripted: ServerProcess, visit: Callable[..., Visit]) -> None:
    """A growing reply renders itself and none of the hundreds of messages before it."""
    chat = visit(scripted.port).open()
    fields = {"conversation": "c", "state": "complete"}
    messages = [
        {
            **fields,
            "id": str(number),
            "parent": str(number - 1) if number else None,
            "role": "assistant" if number % 2 else "user",
            "content": f"message {number}\n\n- with\n- a list",
            "created": number + 1,
        }
        for number in range(400)
    ]
    head = {"id": "c", "title": "long", "created": 1, "updated": 1, "settings": {}, "leaf": "399"}
    chat.take_export(
        {
            "format": "tailrace-conversations",
            "version": 1,
            "conversations": [{"conversation": head, "messages": messages}],
        }
    )
    chat.page.get_by_role("link", name="long").click()
    expect(chat.replies).to_have_count(200)
    chat.page.evaluate(
        """() => {
            window.changed = 0;
            const earlier = [...document.querySelectorAll(".message")];
            const look = new MutationObserver((records) => { window.changed += records.length; });
            for (const message of earlier) look.observe(message, {subtree: true, childList: true, characterData: true});
        }"""
    )
    chat.send(say("word " * 200))
    chat.ended(count=201)
    assert chat.page.evaluate("() => window.changed") == 0
