"""Finds the plugins of a group: the files of its folder, and the entry points that other packages declare."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from types import ModuleType

from workbench.errors import MissingDependencyError, PluginError
from workbench.options import suggest


@dataclass(frozen=True)
class Plugin:
    """One plugin as a list or a menu shows it.

    Attributes:
        group: Folder it belongs to, e.g. `transforms`.
        name: What recipes and the command line call it.
        summary: First sentence of its docstring.
        missing: Packages that it needs and this machine lacks.
        extra: Extra that brings them.
        fault: Why it cannot even be imported; empty if it can.
    """

    group: str
    name: str
    summary: str
    missing: tuple[str, ...] = ()
    extra: str = ""
    fault: str = ""

    @property
    def available(self) -> bool:
        """Whether it can be used here."""
        return not self.missing and not self.fault

    @property
    def reason(self) -> str:
        """Why it cannot be used, and how to mend that; empty if it can."""
        if self.available:
            return ""
        if self.fault:
            return f"cannot be imported ({self.fault}): repair or remove the package that brings it"
        return f"needs {', '.join(self.missing)}: pip install 'deployment-workbench[{self.extra}]'"


def list_plugins(group: str) -> tuple[Plugin, ...]:
    """Lists a group's plugins by name; those that lack a package are listed with what they lack."""
    return tuple(_describe(group, name, path) for name, path in sorted(_modules(group).items()))


def find_plugin(group: str, name: str) -> ModuleType:
    """Imports a plugin that can be used here.

    Raises:
        PluginError: There is none of that name.
        MissingDependencyError: A package that it needs is not installed.
    """
    name = name.replace("-", "_")
    modules = _modules(group)
    if name not in modules:
        raise PluginError(f"There is no '{name}' among the {group}.", suggest(name, sorted(modules)))
    plugin = _describe(group, name, modules[name])
    if plugin.fault:
        raise PluginError(
            f"'{name}' among the {group} cannot be imported: {plugin.fault}.",
            "Repair or remove the package that brings it.",
        )
    if not plugin.available:
        raise MissingDependencyError(
            f"'{name}' needs {', '.join(plugin.missing)}, which this environment lacks.",
            f"Install it: pip install 'deployment-workbench[{plugin.extra}]'.",
        )
    return importlib.import_module(modules[name])


def plugin_modules(group: str) -> dict[str, ModuleType]:
    """Plugin name → module of all that can be imported, those that lack a package for their work included."""
    modules = _modules(group)
    return {
        plugin.name: importlib.import_module(modules[plugin.name]) for plugin in list_plugins(group) if not plugin.fault
    }


def required_versions(plugin: ModuleType) -> dict[str, str]:
    """Versions of what a plugin requires: they decide its result. Some packages come in several wheels."""
    versions = {}
    for package in (name for entry in plugin.REQUIRES for name in entry.split("|")):
        for distribution in (package, f"{package}-gpu", f"{package}-cpu", f"{package}-openvino"):
            try:
                versions[package] = version(distribution)
            except PackageNotFoundError:
                continue
    return versions


def _modules(group: str) -> dict[str, str]:
    """Plugin name → module path. The folder wins over an entry point of the same name."""
    package = importlib.import_module(f"workbench.{group}")
    found = dict(_declared(group))
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            found[module.name] = f"workbench.{group}.{module.name}"
    return found


@functools.cache
def _declared(group: str) -> tuple[tuple[str, str], ...]:
    """Entry points of other packages; reading every installed package's takes long enough to do it once only."""
    return tuple((point.name, point.value) for point in entry_points(group=f"workbench.{group}"))


def _describe(group: str, name: str, path: str) -> Plugin:
    try:
        module = importlib.import_module(path)
        requires: dict[str, str] = module.REQUIRES
    except Exception as error:  # somebody else's: it must not take the others along
        return Plugin(group, name, path, fault=f"{type(error).__name__}: {error}")
    # `this|that` is met by either.
    missing = [entry for entry in requires if not any(map(importlib.util.find_spec, entry.split("|")))]
    summary = (module.__doc__ or "").strip().partition("\n")[0]
    named = tuple(entry.replace("|", " or ") for entry in missing)
    return Plugin(group, name, summary, named, requires[missing[0]] if missing else "")
