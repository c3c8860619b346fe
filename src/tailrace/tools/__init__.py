"""Programs that look at a server from outside: they reach it over HTTP alone and work on any server."""
