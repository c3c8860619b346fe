"""The chat template that the settings name, tried before anything starts."""

from __future__ import annotations

from tailrace.errors import ConfigurationError, ModelError
from tailrace.models.chat_template import read_chat_template


def check_chat_template(path: str | None) -> None:
    """Raise ConfigurationError where the file can't be read, or isn't a template that shows what a user says."""
    if path is None:
        return
    # Only here: most starts need no template's compiler in this process.
    from tailrace.chat.template import ChatTemplate
    from tailrace.chat.template_trial import find_defect
    from tailrace.errors import InvalidRequest

    try:
        source = read_chat_template(path)
        defect = find_defect(source)
        if defect is not None:
            raise ModelError(defect)
        template = ChatTemplate(source, bos_token="", eos_token="")
        template.render([{"role": "user", "content": "Is this text in the prompt?"}])
    except (ModelError, InvalidRequest) as error:
        reason = str(error).replace("the model's chat template", "it")
        raise ConfigurationError(f"chat_template: {path} can't be used as a chat template: {reason}") from error
