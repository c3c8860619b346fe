"""The server's properties, slots and models in llama-server's form. They contain no client's text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tailrace import __version__
from tailrace.server.app_state import AppState
from tailrace.server.choice import Choice
from tailrace.server.dialects.llama_server.prepare import default_settings
from tailrace.server.served_model import ServedModel


def props(app: AppState, model: ServedModel) -> dict[str, Any]:
    """The body of ``/props``. ``model_path`` is the file's name alone: its folder is private."""
    info = model.info
    return {
        "default_generation_settings": {"params": default_settings(), "n_ctx": info.context},
        "total_slots": total_slots(app, model),
        "model_alias": app.model_name,
        "model_path": Path(app.model_path).name if app.model_path is not None else "",
        "modalities": {"vision": False, "audio": False, "video": False},
        "endpoint_slots": True,
        "endpoint_props": False,
        "endpoint_metrics": True,
        "chat_template": info.chat_template or "",
        "chat_template_caps": {"supports_tools": model.template.supports_tools},
        "bos_token": info.bos_token,
        "eos_token": info.eos_token,
        "build_info": f"tailrace-{__version__}",
        "is_sleeping": False,
    }


def total_slots(app: AppState, model: ServedModel) -> int:
    """Requests that are decoded at the same time, by all replicas."""
    return model.info.parallel * app.replicas


def slots(app: AppState, model: ServedModel) -> list[dict[str, Any]]:
    """The body of ``/slots``. Requests aren't bound to slots here, so the running ones come first."""
    rows: list[dict[str, Any]] = []
    busy = [choice.n_tokens for choice in app.engine.accepted_generations() if isinstance(choice, Choice)]
    for number in range(total_slots(app, model)):
        slot: dict[str, Any] = {
            "id": number,
            "n_ctx": model.info.context,
            "speculative": app.settings.speculate != "off",
            "is_processing": number < len(busy),
        }
        if number < len(busy):
            slot["next_token"] = [{"has_next_token": True, "n_remain": -1, "n_decoded": busy[number]}]
        rows.append(slot)
    return rows


def model_entry(app: AppState, model: ServedModel | None) -> dict[str, Any]:
    """The model as llama-server has it in ``models``, beside OpenAI's ``data``."""
    generates = model is None or model.info.generates
    return {
        "name": app.model_name,
        "model": app.model_name,
        "modified_at": "",
        "size": "",
        "digest": "",
        "type": "model",
        "description": model.info.description if model is not None else "",
        "tags": [""],
        "capabilities": ["completion"] if generates else ["embedding"],
        "parameters": "",
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": model.info.architecture if model is not None else "",
            "families": [model.info.architecture if model is not None else ""],
            "parameter_size": "",
            "quantization_level": "",
        },
    }
