"""One request to rerank through a client's own package: ``rerank_once.py CLIENT URL MODEL QUERY DOCUMENT...``.

Prints what the client has seen as JSON: the order, the best score, the best document's text, and the error of a request
without documents.
"""

from __future__ import annotations

import json
import sys
from typing import Any

#: litellm's clients by their names in the test: the provider, and what stands behind the server's address.
LITELLM = {
    "litellm-cohere": ("cohere", ""),
    "litellm-jina": ("jina_ai", "/v1/rerank"),
    "litellm-vllm": ("hosted_vllm", ""),
    "litellm-tei": ("huggingface", ""),
}


def by_cohere(url: str, model: str, query: str, documents: list[str], *, second: bool) -> dict[str, Any]:
    """Cohere's own package, with either version of its API."""
    import cohere

    made: Any = cohere.ClientV2(api_key="any", base_url=url) if second else cohere.Client(api_key="any", base_url=url)
    options = {} if second else {"return_documents": True}
    found = made.rerank(model=model, query=query, documents=documents, **options)
    try:
        made.rerank(model=model, query=query, documents=[])
        error = ""
    except cohere.BadRequestError as refused:
        error = str(refused.body)
    best = found.results[0]
    return {
        "order": [row.index for row in found.results],
        "score": best.relevance_score,
        "text": None if second else best.document.text,
        "units": found.meta.billed_units.search_units,
        "error": error,
    }


def by_litellm(name: str, url: str, model: str, query: str, documents: list[str]) -> dict[str, Any]:
    """litellm's ``rerank`` with the provider of this name."""
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    provider, path = LITELLM[name]
    options = {"api_base": url + path, "api_key": "any", "query": query}
    found = litellm.rerank(model=f"{provider}/{model}", documents=documents, **options)
    return {
        "order": [row["index"] for row in found.results],
        "score": found.results[0]["relevance_score"],
        "text": found.results[0]["document"]["text"],
    }


def main() -> None:
    """See the module."""
    name, url, model, query, *documents = sys.argv[1:]
    if name in LITELLM:
        seen = by_litellm(name, url, model, query, documents)
    else:
        seen = by_cohere(url, model, query, documents, second=name == "cohere-v2")
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
