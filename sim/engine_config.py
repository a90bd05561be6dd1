"""A configuration file of the engine as plain data, its sections of the kind this package expects.

Knows YAML and which sections are mappings. Must not know what settings do: the engine reads the same file itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MAPPINGS = ("llm", "prompt", "database", "evaluator", "evolution_trace", "kvevolve")
OWN = ("llm", "search", "evaluation")
"""Sections of `kvevolve`."""
MODELS = ("models", "evaluator_models")
"""Lists of mappings in `llm`."""


def read_config(path: str | Path) -> dict[str, Any]:
    """Return the content of a configuration; empty if the file is.

    Raises:
        ValueError: If it cannot be read, is no mapping, or a section is none; names file, line or field, and fix.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: not a readable YAML config: {error.strerror}; fix: name the engine's file") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        said = error.problem or error.context
        raise ValueError(f"{where}: not a readable YAML config: {said}; fix: repair it here or just before") from None
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: not a readable YAML config: {said}; fix: save it as UTF-8 YAML") from None
    return checked({} if content is None else content, str(path))


def checked(content: Any, where: str) -> dict[str, Any]:
    """Return a configuration whose sections are what they have to be.

    Raises:
        ValueError: If one is not.
    """
    if not isinstance(content, dict):
        raise ValueError(
            f"{where}: expected a mapping of OpenEvolve settings, got {_kind(content)}; fix: see examples/"
        )
    places = [(name, content.get(name)) for name in MAPPINGS]
    own, llm = content.get("kvevolve"), content.get("llm")
    places += [(f"kvevolve.{name}", own.get(name)) for name in OWN] if isinstance(own, dict) else []
    for name, section in places:
        if section is not None and not isinstance(section, dict):
            raise ValueError(f"{where}: field '{name}': expected a mapping, got {_kind(section)}; fix: see examples/")
    for name in MODELS:
        models = llm.get(name) if isinstance(llm, dict) else None
        if models is not None and not (isinstance(models, list) and all(isinstance(model, dict) for model in models)):
            raise ValueError(f"{where}: field 'llm.{name}': expected a list of mappings; fix: write [{{name: MODEL}}]")
    return content


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", bool: "true or false", dict: "a mapping"}.get(type(value), repr(value))
