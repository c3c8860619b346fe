"""Reranking: how well documents answer a query, in the forms of Jina, Cohere and text-embeddings-inference (TEI)."""
