"""A form that instructor asks for: a call that is required, of a schema of pydantic's. Prints what came as JSON."""

from __future__ import annotations

import json
import sys

import instructor
from openai import OpenAI
from pydantic import BaseModel

base, key, model, prompt, _ = sys.argv[1:]


class Shell(BaseModel):
    """A command to run."""

    command: str
    seconds: int | None = None


client = instructor.from_openai(OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0))
form = client.chat.completions.create(
    model=model, response_model=Shell, max_retries=0, messages=[{"role": "user", "content": prompt}]
)
print(json.dumps({"called": [form.command], "answer": "" if form.seconds is None else str(form.seconds)}))
