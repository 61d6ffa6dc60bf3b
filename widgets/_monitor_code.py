"""The Python that does what the Monitor panel does; a key stands in it as the name of an environment variable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

USUAL_VARIABLE = "WORKBENCH_API_KEY"


def monitor_code(
    address: str, watched: Mapping[str, Any], loaded: str, load: Mapping[str, Any], source: str, variable: str
) -> str:
    """Watching, and load at the same time.

    Args:
        address: What is watched.
        watched: Options of `watch_service` that differ from the defaults.
        loaded: Where load is sent.
        load: Options of `load_service` that differ from the defaults.
        source: What is sent, as an argument; empty for random values.
        variable: Environment variable with the key; empty if there is none.
    """
    key = f"os.environ[{variable!r}]" if variable else ""
    lines = [*(["import os", ""] if key else []), "import workbench as wb", ""]
    lines += [f"moments = {_call('watch_service', address, watched, key)}", "print(wb.service_text(moments))", ""]
    lines += ["# Load, from a cell or a terminal of its own:"]
    lines += [f"load = {_call('load_service', loaded, load, key, source)}", "print(wb.service_load_text(load))"]
    return "\n".join(lines)


def _call(verb: str, address: str, options: Mapping[str, Any], key: str, *others: str) -> str:
    arguments = [repr(address), *([repr(dict(options))] if options else []), *filter(None, others)]
    return f"wb.{verb}({', '.join([*arguments, *([f'key={key}'] if key else [])])})"
