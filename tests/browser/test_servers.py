"""The page and its server: keys, restarts, errors, a path prefix, several models."""

from __future__ import annotations

import json
from collections.abc import Callable

from playwright.sync_api import expect

from openai_wire import say
from page_visit import Visit, shown_text
from prefix_proxy import prefix_proxy
from servers import ServerProcess, fake


def test_a_key_is_asked_for_and_kept_on_demand_alone(visit: Callable[..., Visit]) -> None:
    with fake(step=0.002, api_key="s3cret") as server:
        visitor = visit(server.port)
        chat = visitor.open()
        dialog = chat.page.get_by_role("dialog", name="API key needed")
        dialog.wait_for()
        chat.page.keyboard.press("Escape")
        chat.send(say("with a key"))
        dialog.get_by_label("API key", exact=True).fill("wrong")
        chat.button("Use this key").click()
        expect(dialog).to_contain_text("The server doesn't accept this key.")
        dialog.get_by_label("API key", exact=True).fill("s3cret")
        chat.button("Use this key").click()
        # The message that was refused is sent again by itself.
        assert shown_text(chat.ended()) == "with a key"
        expect(chat.page.get_by_label("Model")).to_contain_text("fake")
        stored = "() => JSON.stringify(localStorage)"
        assert "s3cret" not in chat.page.evaluate(stored)
        chat.page.reload()
        assert chat.ask(say("after a reload"), 2) == "after a reload"
        # Another tab of the same browser doesn't have it, unless the reader says so.
        other = visitor.open()
        dialog = other.page.get_by_role("dialog", name="API key needed")
        dialog.get_by_label("API key", exact=True).fill("s3cret")
        dialog.get_by_label("Keep the key in this browser").check()
        other.button("Use this key").click()
        expect(dialog).to_be_hidden()
        assert "s3cret" in other.page.evaluate(stored)
        third = visitor.open()
        assert third.ask(say("kept")) == "kept"
        third.button("Parameters").click()
        third.button("Forget the key").click()
        assert "s3cret" not in third.page.evaluate(stored)


def test_a_restart_under_an_open_page_loses_nothing(visit: Callable[..., Visit]) -> None:
    with fake(step=0.02) as server:
        port = server.port
        visitor = visit(port)
        chat = visitor.open()
        assert chat.ask(say("one")) == "one"
        chat.send(say("cut " * 200))
        expect(chat.replies.nth(1)).to_contain_text("cut cut")
        server.process.kill()
    reply = chat.ended("cut", 2)
    expect(reply).to_contain_text("cut cut")
    notice = chat.page.get_by_text("The server can't be reached. The page tries again")
    expect(notice).to_be_visible()
    chat.send(f"while it is away {say('two')}")
    expect(chat.replies.nth(2)).to_contain_text("is sent when the server is back")
    with fake("--port", str(port), step=0.002):
        assert shown_text(chat.ended(count=3)) == "two"
        expect(notice).to_be_hidden()
        reply.get_by_role("button", name="Regenerate").click()
        chat.page.get_by_role("img", name="Version 2 of 2").wait_for()


def test_an_error_has_the_servers_words(scripted: ServerProcess, visit: Callable[..., Visit]) -> None:
    chat = visit(scripted.port).open()
    chat.send("x" * 40_000)
    failed = chat.ended("failed")
    expect(failed.get_by_role("alert")).to_contain_text("32768")
    # The message is still there, and can be made shorter.
    chat.own.first.get_by_role("button", name="Edit").click()
    chat.page.get_by_role("textbox", name="Changed message").fill(say("short"))
    chat.button("Send as a new branch").click()
    assert shown_text(chat.ended()) == "short"


def test_an_error_in_the_middle_of_a_reply(scripted: ServerProcess, visit: Callable[..., Visit]) -> None:
    chat = visit(scripted.port).open()
    chat.send("<say>this is kept<nan></say>")
    failed = chat.ended("failed")
    alert = failed.get_by_role("alert").inner_text()
    assert "The server couldn't answer:" in alert
    # The server sends the error as text, too, for other clients: the page shows it once.
    assert shown_text(failed) == "this is kept"


def test_the_page_works_behind_a_path_prefix(scripted: ServerProcess, visit: Callable[..., Visit]) -> None:
    with prefix_proxy(scripted.port, "/llm/tail") as port:
        visitor = visit(port, "/llm/tail")
        chat = visitor.open()
        assert chat.ask(f"{say('```python' + chr(10) + 'x = 1' + chr(10) + '```' + chr(10) + '$x^2$')}") != ""
        expect(chat.replies.first.locator(".hljs-number")).to_have_text("1")
        expect(chat.replies.first.locator("math")).to_be_visible()
        assert all(f":{port}/llm/tail/" in request.url for request in visitor.requests)


def test_the_model_is_chosen(visit: Callable[..., Visit]) -> None:
    with fake("first", "second", step=0.002) as server:
        visitor = visit(server.port)
        chat = visitor.open()
        chat.page.get_by_label("Model").select_option("second")
        assert chat.ask(say("hello")) == "hello"
        assert visitor.bodies()[-1]["model"] == "second"
        expect(chat.replies.first.get_by_role("list", name="Figures of this reply")).to_contain_text("second")
        chat.page.reload()
        expect(chat.page.get_by_label("Model")).to_have_value("second")


def test_the_policy_lets_nothing_of_other_hosts_in(scripted: ServerProcess, visit: Callable[..., Visit]) -> None:
    """If a reply got past the sanitiser, it would still reach nothing."""
    visitor = visit(scripted.port)
    chat = visitor.open()
    tried = chat.page.evaluate(
        """async () => {
            const tried = {};
            tried.fetch = await fetch("https://evil.example/").then(() => "sent", () => "refused");
            const script = document.createElement("script");
            try { script.textContent = "window.ran = 1"; document.body.append(script); } catch (error) {
                tried.script = error.name;
            }
            try { document.body.innerHTML += "<b>"; } catch (error) { tried.html = error.name; }
            tried.ran = window.ran ?? null;
            return tried;
        }"""
    )
    assert tried == {"fetch": "refused", "script": "TypeError", "html": "TypeError", "ran": None}
    assert all("evil" not in request.url or request.failure for request in visitor.requests)
    assert any("Content Security Policy" in wrong for wrong in visitor.wrongs), json.dumps(visitor.wrongs)
    visitor.wrongs.clear()
