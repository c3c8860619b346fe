"""Models on disk: the catalogue, the store, GGUF headers, fetching, weight formats and converted files.

It loads no weights: the engine does. ``model_reference`` finds the file that a user names, ``model_header`` reads its
facts, ``derived_models`` are names that clients have given to a model with other parameters.
"""
