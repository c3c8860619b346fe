"""Families of models, a module each, and the family of a chat template.

A module has ``family_of`` (the template's text → whether it is this family's), ``markup`` (what its parser looks for),
``call`` (how a grammar writes one call) and ``FAMILY``, which joins them.
"""

from __future__ import annotations

import dataclasses
from functools import partial

from tailrace.chat.families import (
    deepseek,
    gemma,
    generic,
    glm,
    glm4,
    harmony,
    hermes,
    kimi,
    llama,
    mistral,
    phi,
    qwen_coder,
)
from tailrace.chat.families.base import Family, Functions
from tailrace.chat.reply_markup import Markup, ThoughtMarkers
from tailrace.chat.template import ChatTemplate

#: The first family that matches a template has it: families with more specific markers come first.
FAMILIES = (
    harmony.FAMILY,
    kimi.FAMILY,
    deepseek.FAMILY,
    deepseek.V3_1,
    qwen_coder.FAMILY,
    glm.FAMILY,
    mistral.NAMED,
    mistral.FAMILY,
    phi.FAMILY,
    llama.FAMILY,
    hermes.FAMILY,
    glm4.FAMILY,
    gemma.FAMILY,
    generic.FAMILY,
)


def family_of(template: ChatTemplate) -> Family:
    """The family of a chat template. A template without support for tools gets the generic syntax of calls."""
    family = next(family for family in FAMILIES if family.matches_template(template.source))
    if template.supports_tools or family is gemma.FAMILY:
        return family
    return dataclasses.replace(generic.FAMILY, markup=partial(_generic_markup, family.markup({}).thoughts))


def _generic_markup(thoughts: tuple[ThoughtMarkers, ...], functions: Functions) -> Markup:
    return dataclasses.replace(generic.markup(functions), thoughts=thoughts)
