"""What ``/`` shows in a browser where the page isn't built."""

from __future__ import annotations

MISSING_PAGE = b"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>tailrace</title></head>
<body>
<h1>tailrace</h1>
<p>The server works. Its chat page isn't built, so there is nothing to show here yet.</p>
<p>Set-up builds the page with npm, and npm couldn't be reached, or the build failed. To build the page, run this in the
folder of tailrace, then start the server again:</p>
<pre>python3 scripts/setup_page.py</pre>
<p>It prints the reason if the build fails. Behind a proxy set <code>HTTPS_PROXY</code>; for a mirror set
<code>npm_config_registry</code>.</p>
<p>Programs don't need the page: the API answers under <a href="v1/models"><code>/v1</code></a>.</p>
</body>
</html>
"""
