"""Gemma 2 and 3: no thoughts and no tools in the template. Calls have the generic syntax, which the prompt explains."""

from __future__ import annotations

import dataclasses

from tailrace.chat.families import generic, hermes
from tailrace.chat.families.base import Family, Functions
from tailrace.chat.reply_markup import Markup


def matches_template(template: str) -> bool:
    return "<start_of_turn>" in template and "<think>" not in template and hermes.CALL_START not in template


def markup(functions: Functions) -> Markup:
    return dataclasses.replace(generic.markup(functions), thoughts=())


FAMILY = Family(name="gemma", matches_template=matches_template, markup=markup, syntax=generic.FORM)
