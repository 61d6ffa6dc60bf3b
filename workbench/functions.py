"""Finds a function of the user's own by the text that names it: `package.module:function` or `file.py:function`."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.errors import OptionsError
from workbench.options import suggest


def find_function(text: str, name: str) -> Callable[..., Any]:
    """Imports what an option names; call it in a worker's own process, as it runs code and adds to `sys.path`.

    Args:
        text: `package.module:function` or `folder/file.py:function`.
        name: The option, for messages, e.g. `factory`.

    Raises:
        OptionsError: There is no such function.
    """
    place, _, function = text.rpartition(":")
    remedy = "Write `package.module:function` or `folder/file.py:function`."
    if not place or not function:
        raise OptionsError(f"`{name}` is '{text}', which names no function in a module.", remedy)
    try:
        if place.endswith(".py"):
            path = Path(place).expanduser().absolute()
            sys.path.insert(0, str(path.parent))  # for what it imports; this is the worker's own process
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec
            assert spec.loader
            module = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = module  # dataclasses and pickles look their module up there
            spec.loader.exec_module(module)
        else:
            sys.path.append(str(Path.cwd()))  # last: it must not stand in for what is installed
            module = importlib.import_module(place)
    except FileNotFoundError:
        raise OptionsError(f"`{name}` names {place}, which does not exist.", remedy) from None
    except Exception as error:
        raise OptionsError(
            f"`{name}` names {place}, which cannot be imported: {type(error).__name__}: {first_sentence(error)}.",
            remedy,
        ) from None
    found: Any = getattr(module, function, None)
    if not callable(found):
        raise OptionsError(
            f"`{name}` names {place}, which has no function '{function}'.",
            suggest(function, [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]),
        )
    callable_: Callable[..., Any] = found
    return callable_


def first_sentence(error: Exception) -> str:
    """The first sentence of what a library says; the rest is advice for its developers."""
    text = re.split(r"(?<=[a-z0-9\])'])[.!] |\n", str(error).strip())[0]
    return " ".join(text.split())[:200].rstrip(".") or type(error).__name__
