"""Gives a bare `openevolve-run initial_program.py evaluator.py` the model it lacks.

OpenEvolve 0.4.0 starts without a configuration, reads OPENAI_API_KEY and OPENAI_API_BASE for its models, and has none
to give them to: every iteration is lost. The evaluator is imported before the first of them, so the model can be named
in time. Knows the engine's `Config`; must not know policies or endpoints.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import urllib.request
from typing import Any
from urllib.parse import urlsplit

OPENAI_BASE = "https://api.openai.com/v1"
OPENAI_MODEL = "gpt-4.1-mini"
"""Model asked for at OpenAI itself, unless `$OPENAI_MODEL` names another."""

_LIST_S = 10.0
_LOGGER = logging.getLogger(__name__)


def adopt_default_model() -> str | None:
    """Name a model in the running engine's configuration if that has none; return it.

    The model is `$OPENAI_MODEL`, else at OpenAI `OPENAI_MODEL`, else the first one the endpoint of
    `$OPENAI_API_BASE` lists.

    Returns:
        The model's name, or None if the engine's configuration or a model was not found (a warning says so).
    """
    settings = _configuration()
    base = os.environ.get("OPENAI_API_BASE") or OPENAI_BASE
    name = os.environ.get("OPENAI_MODEL") or _first_model(base)
    if settings is None or name is None:
        _LOGGER.warning(
            "OpenEvolve has no model and will lose every iteration: add --config config.yaml, or --primary-model NAME "
            "(with --api-base URL for an endpoint other than OpenAI's)"
        )
        return None
    llm = settings.llm
    llm.api_base, llm.api_key, llm.primary_model = base, os.environ.get("OPENAI_API_KEY"), name
    llm.rebuild_models()
    llm.update_model_params({"system_message": settings.prompt.system_message})
    _LOGGER.warning("OpenEvolve names no model by default; using %s at %s (set OPENAI_MODEL for another)", name, base)
    return name


def _configuration() -> Any:
    """Return the engine's one configuration without models; it hands it to nobody, so it is looked for."""
    module = sys.modules.get("openevolve.config")
    if module is None:
        return None
    found = [item for item in gc.get_objects() if type(item) is module.Config and not item.llm.models]
    return found[0] if len(found) == 1 else None


def _first_model(base: str) -> str | None:
    if urlsplit(base).hostname == urlsplit(OPENAI_BASE).hostname:
        return OPENAI_MODEL
    headers = {"Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"}
    try:
        request = urllib.request.Request(base.rstrip("/") + "/models", headers=headers)
        with urllib.request.urlopen(request, timeout=_LIST_S) as answer:
            listed = json.load(answer)["data"]
            return str(listed[0]["id"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        _LOGGER.warning("%s lists no models (%s)", base, error)
        return None
