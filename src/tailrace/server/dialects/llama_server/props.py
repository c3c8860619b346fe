"""The server's properties, slots and models in llama-server's form. They contain no client's text."""

from __future__ import annotations

from typing import Any

from tailrace import __version__
from tailrace.protocol import ModelInfo
from tailrace.server.choice import Choice
from tailrace.server.dialects.llama_server.prepare import default_settings
from tailrace.server.models.model_service import ModelService
from tailrace.server.served_model import ServedModel
from tailrace.serving.model_abilities import ModelAbilities


def props(service: ModelService, model: ServedModel) -> dict[str, Any]:
    """The body of ``/props``. ``model_path`` is the file's name alone: its folder is private."""
    info = model.info
    return {
        "default_generation_settings": {"params": default_settings(), "n_ctx": info.context},
        "total_slots": total_slots(service, model),
        "model_alias": service.name,
        "model_path": service.path.name if service.path is not None else "",
        "modalities": {"vision": False, "audio": False, "video": False},
        "endpoint_slots": True,
        "endpoint_props": False,
        "endpoint_metrics": True,
        "chat_template": info.chat_template or "",
        "chat_template_caps": {"supports_tools": model.template.supports_tools},
        "bos_token": info.bos_token,
        "eos_token": info.eos_token,
        "build_info": f"tailrace-{__version__}",
        "is_sleeping": not service.engine.is_connected,
    }


def total_slots(service: ModelService, model: ServedModel) -> int:
    """Requests that are decoded at the same time, by all replicas."""
    return model.info.parallel * service.replicas


def slots(service: ModelService, model: ServedModel) -> list[dict[str, Any]]:
    """The body of ``/slots``. Requests aren't bound to slots here, so the running ones come first."""
    rows: list[dict[str, Any]] = []
    busy = [choice.n_tokens for choice in service.engine.accepted_generations() if isinstance(choice, Choice)]
    for number in range(total_slots(service, model)):
        slot: dict[str, Any] = {
            "id": number,
            "n_ctx": model.info.context,
            "speculative": service.spec.settings.speculate != "off",
            "is_processing": number < len(busy),
        }
        if number < len(busy):
            slot["next_token"] = [{"has_next_token": True, "n_remain": -1, "n_decoded": busy[number]}]
        rows.append(slot)
    return rows


def model_entry(service: ModelService, abilities: ModelAbilities | None) -> dict[str, Any]:
    """The model as llama-server has it in ``models``, beside OpenAI's ``data``. ``abilities``: by its file, where no
    engine has said them yet.
    """
    info = service.info
    return {
        "name": service.name,
        "model": service.name,
        "modified_at": "",
        "size": "",
        "digest": "",
        "type": "model",
        "description": info.description if info is not None else "",
        "tags": [""],
        "capabilities": _capabilities(info, abilities),
        "parameters": "",
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": info.architecture if info is not None else "",
            "families": [info.architecture if info is not None else ""],
            "parameter_size": "",
            "quantization_level": "",
        },
    }


def _capabilities(info: ModelInfo | None, abilities: ModelAbilities | None) -> list[str]:
    """What the model can do, as far as llama-server has words for it."""
    if info is not None:
        writes, ranks = info.generates, info.rank_score is not None
    else:
        writes = abilities is None or abilities.text
        ranks = abilities is not None and abilities.rerank
    return [*(["completion"] if writes else []), *(["rerank"] if ranks else [])] or ["embedding"]
