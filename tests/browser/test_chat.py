"""The chat: messages, stopping, branches, the history, files, tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from openai_wire import say
from page_visit import ChatPage, Visit, shown_text
from servers import ServerProcess

LONG = "word " * 400
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Köln"}}</tool_call>'
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]


def test_a_first_and_a_second_message(scripted: ServerProcess, visit: Callable[..., Visit]) -> None:
    visitor = visit(scripted.port)
    chat = visitor.open()
    assert chat.ask(f"Hello {say('Grüße 👋🏽 aus 東京.')}") == "Grüße 👋🏽 aus 東京."
    assert chat.ask(f"More {say('The second.')}", 2) == "The second."
    assert [one["role"] for one in visitor.bodies()[1]["messages"]] == ["user", "assistant", "user"]
    figures = chat.replies.last.get_by_role("list", name="Figures of this reply")
    expect(figures).to_contain_text("tokens/s")
    expect(figures).to_contain_text("first token")
    expect(figures).to_contain_text("12 tokens")  # A byte is a token, and so is the end.
    assert [title.startswith("Hello") for title in chat.conversations()] == [True]


def test_a_reply_is_stopped_and_goes_on(slow: ServerProcess, visit: Callable[..., Visit]) -> None:
    visitor = visit(slow.port)
    chat = visitor.open()
    chat.send(say(LONG))
    expect(chat.replies.first).to_contain_text("word word")
    chat.stop_button.click()
    reply = chat.ended("stopped")
    expect(reply).to_contain_text("Stopped.")
    kept = shown_text(reply)
    assert 0 < len(kept) < len(LONG) / 2
    chat.button("Continue").click()
    chat.stop_button.wait_for()
    body = visitor.bodies()[-1]
    assert body["continue_final_message"] is True
    assert body["messages"][-1]["role"] == "assistant"
    assert body["messages"][-1]["content"].startswith(kept)
    chat.page.keyboard.press("Escape")
    assert shown_text(chat.ended("stopped")).startswith(kept)


def test_an_edited_message_and_a_new_reply_are_branches(scripted: ServerProcess, visit: Callable[..., Visit]) -> None:
    chat = visit(scripted.port).open()
    chat.ask(f"one {say('first')}")
    chat.ask(f"two {say('second')}", 2)
    chat.own.first.get_by_role("button", name="Edit").click()
    editor = chat.page.get_by_role("textbox", name="Changed message")
    editor.fill(f"changed {say('another')}")
    chat.button("Send as a new branch").click()
    expect(chat.replies).to_have_count(1)
    assert shown_text(chat.ended()) == "another"
    versions = chat.own.first.get_by_role("img", name="Version 2 of 2")
    versions.wait_for()
    # The arrows lead to the other branch, and to its own later messages.
    chat.own.first.get_by_role("button", name="Previous version").click()
    expect(chat.replies).to_have_count(2)
    assert shown_text(chat.replies.last) == "second"
    chat.replies.last.get_by_role("button", name="Regenerate").click()
    chat.replies.last.get_by_role("img", name="Version 2 of 2").wait_for()
    assert shown_text(chat.ended(count=2)) == "second"


def test_a_reload_keeps_history_draft_and_what_has_come(slow: ServerProcess, visit: Callable[..., Visit]) -> None:
    chat = visit(slow.port).open()
    chat.ask(f"begin {say('ok')}")
    chat.send(f"go on {say(LONG)}")
    expect(chat.replies.nth(1)).to_contain_text("word word word word word word")
    chat.field.fill("not sent yet")
    chat.page.reload()
    reply = chat.ended("cut", 2)
    expect(reply).to_contain_text("word")
    expect(reply).to_contain_text("What had come is kept")
    assert shown_text(chat.replies.first) == "ok"
    expect(chat.field).to_have_value("not sent yet")
    assert len(chat.conversations()) == 1


def test_two_tabs_write_into_one_conversation(scripted: ServerProcess, visit: Callable[..., Visit]) -> None:
    visitor = visit(scripted.port)
    first = visitor.open()
    first.ask(f"shared {say('base')}")
    first.settle()
    second = visitor.open(first.page.url.partition("/#")[2].join(("#", "")))
    assert shown_text(second.ended()) == "base"
    # Both send at the same time, from the same place of the conversation.
    for chat, name in ((first, "left"), (second, "right")):
        chat.field.fill(f"{name} {say('reply of ' + name)}")
    first.field.press("Enter")
    second.field.press("Enter")
    for chat, name in ((first, "left"), (second, "right")):
        assert shown_text(chat.ended(count=2)) == f"reply of {name}"
    # Each tab shows its own branch, and knows the other one.
    for chat in (first, second):
        chat.own.last.get_by_role("img", name="of 2").wait_for()
    first.page.reload()
    shown = shown_text(first.ended(count=2))
    first.own.last.get_by_role("button", name="Previous version").or_(
        first.own.last.get_by_role("button", name="Next version")
    ).locator("visible=true").and_(first.page.locator("button:not([disabled])")).first.click()
    expect(first.replies.last).not_to_contain_text(shown)
    assert {shown, shown_text(first.replies.last)} == {"reply of left", "reply of right"}


def test_what_one_tab_receives_the_other_one_shows(slow: ServerProcess, visit: Callable[..., Visit]) -> None:
    visitor = visit(slow.port)
    first = visitor.open()
    first.send(say("slowly " * 5))
    first.settle()
    second = visitor.open(first.page.url.partition("/#")[2].join(("#", "")))
    expect(second.replies.first).to_contain_text("Another tab receives this reply.")
    assert shown_text(second.ended()) == ("slowly " * 5).strip()


def test_reasoning_is_folded_and_a_tools_call_is_answered(scripted: ServerProcess, visit: Callable[..., Visit]) -> None:
    visitor = visit(scripted.port)
    chat = visitor.open()
    chat.button("Parameters").click()
    chat.page.get_by_label("Tools (JSON, as the API's field)").fill(json.dumps(TOOLS))
    chat.page.get_by_label("System prompt").fill("Be brief.")
    chat.page.get_by_label("Temperature").fill("0.5")
    chat.page.get_by_label("Max tokens of a reply").fill("500")
    chat.send(f"weather? {say('<think>They want <b>weather</b>.</think>I look.' + CALL)}")
    reply = chat.ended()
    body = visitor.bodies()[-1]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["temperature"], body["max_tokens"], body["tools"]) == (0.5, 500, TOOLS)
    thought = reply.get_by_text("They want")
    expect(thought).to_be_hidden()
    reply.get_by_text("Reasoning", exact=True).click()
    expect(thought).to_be_visible()
    expect(reply.get_by_role("region", name="Tool call: weather")).to_contain_text('"city": "Köln"')
    chat.page.get_by_label("Result of weather").fill(f"rain {say('Take an umbrella.')}")
    chat.button("Send the result").click()
    assert shown_text(chat.ended(count=2)) == "Take an umbrella."
    sent = visitor.bodies()[-1]["messages"]
    assert [one["role"] for one in sent] == ["system", "user", "assistant", "tool"]
    assert sent[3]["tool_call_id"] == sent[2]["tool_calls"][0]["id"]


def test_text_files_are_dropped_and_others_refused(scripted: ServerProcess, visit: Callable[..., Visit]) -> None:
    visitor = visit(scripted.port)
    chat = visitor.open()
    drop = """([name, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], name));
        for (const type of ["dragover", "drop"]) {
            document.querySelector(".chat").dispatchEvent(new DragEvent(type, {dataTransfer: data, bubbles: true}));
        }
    }"""
    chat.page.evaluate(drop, ["notes.md", list(b"# Notes\n```\ncode\n```\n")])
    chat.page.get_by_text("notes.md").wait_for()
    chat.page.evaluate(drop, ["picture.png", [0x89, 0x50, 0x4E, 0x47, 0, 1, 2]])
    chat.page.get_by_text("picture.png is no text file.").wait_for()
    chat.ask(f"read {say('done')}")
    sent = visitor.bodies()[-1]["messages"][0]["content"]
    assert sent.startswith("notes.md:\n````\n# Notes\n```\ncode\n```\n````\n\nread ")
    expect(chat.own.first).to_contain_text("notes.md")
    expect(chat.page.get_by_text("picture.png")).to_be_hidden()


def test_conversations_are_exported_imported_renamed_and_deleted(
    scripted: ServerProcess, visit: Callable[..., Visit], tmp_path: Path
) -> None:
    chat = visit(scripted.port).open()
    chat.ask(f"question {say('answer')}")
    chat.settle()

    def choose(action: str) -> None:
        chat.page.locator(".menu summary").first.click()
        chat.button(action).click()

    choose("Rename")
    chat.page.get_by_label("New title").fill("Renamed")
    chat.page.keyboard.press("Enter")
    expect(chat.page.get_by_role("link", name="Renamed")).to_be_visible()
    with chat.page.expect_download() as saved:
        choose("Export as Markdown")
    text = Path(saved.value.path()).read_text(encoding="utf-8")
    assert text.startswith("# Renamed\n\n## user\n\nquestion ")
    assert text.endswith("## assistant (fake)\n\nanswer\n")
    with chat.page.expect_download() as saved:
        choose("Export as JSON")
    file = tmp_path / "export.json"
    saved.value.save_as(file)
    choose("Delete")
    chat.button("Delete for good?").click()
    expect(chat.replies).to_have_count(0)
    assert chat.conversations() == []
    chat.page.locator(".panel-foot input").set_input_files(file)
    chat.page.get_by_text("Conversations imported: 1").wait_for()
    chat.page.get_by_role("link", name="Renamed").click()
    assert shown_text(chat.ended()) == "answer"
    file.write_text('{"format": "another"}')
    chat.page.locator(".panel-foot input").set_input_files(file)
    chat.page.get_by_text("This file has no exported conversations.").wait_for()


def test_the_keyboard_is_enough(scripted: ServerProcess, visit: Callable[..., Visit]) -> None:
    chat = visit(scripted.port, permissions=["clipboard-read", "clipboard-write"]).open()
    keys = chat.page.keyboard
    expect(chat.field).to_be_focused()
    chat.page.get_by_label("Search titles").focus()
    keys.press("Alt+i")
    expect(chat.field).to_be_focused()
    keys.insert_text(f"first line {say('typed')}")
    keys.press("Shift+Enter")
    keys.insert_text("second line")
    keys.press("Enter")
    assert shown_text(chat.ended()) == "typed"
    expect(chat.own.first).to_contain_text("second line")
    keys.press("Alt+c")
    chat.page.wait_for_function("async () => (await navigator.clipboard.readText()) === 'typed'")
    keys.press("Alt+r")
    chat.page.get_by_role("img", name="Version 2 of 2").wait_for()
    chat.ended()
    keys.press("Alt+k")
    shortcuts = chat.page.get_by_role("dialog", name="Keyboard shortcuts")
    expect(shortcuts).to_contain_text("Stop the reply")
    keys.press("Escape")
    expect(shortcuts).to_be_hidden()
    keys.press("Alt+p")
    chat.page.get_by_label("System prompt").wait_for()
    keys.press("Alt+l")
    expect(chat.page.get_by_label("Search titles")).to_be_hidden()
    keys.press("Alt+n")
    expect(chat.replies).to_have_count(0)
    expect(chat.field).to_be_focused()
    assert _reached_by_tab(chat) >= {
        "Send",
        "Attach text files",
        "New chat",
        "Model",
        "Chat",
        "Machine",
        "Language",
    } - {
        "Send"  # Without a text there is nothing to send.
    }


def test_texts_are_copied_on_pages_without_tls_too(scripted: ServerProcess, visit: Callable[..., Visit]) -> None:
    visitor = visit(scripted.port)
    # Browsers have the clipboard's interface on pages with TLS, and of the own machine, alone.
    visitor.context.add_init_script(
        """Object.defineProperty(navigator, "clipboard", {value: undefined});
        window.copied = [];
        document.addEventListener("copy", () => window.copied.push(document.activeElement.value));"""
    )
    chat = visitor.open()
    text = "Look:\n\n```sh\nls -l\n```"
    chat.ask(say(text))
    chat.button("Copy code").click()
    chat.button("Copied").wait_for()
    chat.replies.first.get_by_role("button", name="Copy", exact=True).click()
    chat.replies.first.get_by_role("button", name="Copied", exact=True).first.wait_for()
    chat.page.wait_for_function("() => window.copied.length === 2")
    assert chat.page.evaluate("() => window.copied") == ["ls -l", text]


def _reached_by_tab(chat: ChatPage) -> set[str]:
    """The names of what the tabulator key reaches."""
    found = set()
    for _ in range(40):
        chat.page.keyboard.press("Tab")
        found.add(
            chat.page.evaluate(
                "() => document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent.trim()"
            )
        )
    return found
