"""Models on disk: references, the catalogue, all stores, GGUF headers, pulls, weight formats and converted files.

It loads no weights: the engine does. ``reference`` is the grammar of what users and clients call a model,
``model_reference`` finds its file here, and ``pulls`` fetches it. ``stores`` knows where other programs have models,
``quant_choice`` which of a repository's files are taken. ``model_header`` reads a file's facts. ``derived_models`` are
names that clients have given to a model with other parameters.
"""
