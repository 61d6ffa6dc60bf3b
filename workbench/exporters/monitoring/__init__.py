"""Monitoring: rules and alerts for Prometheus, a dashboard for Grafana, and the tests of the rules."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from workbench.errors import OptionsError
from workbench.exporters import Contents
from workbench.options import option
from workbench.serving_measurements import Derived
from workbench.serving_plan import ServingPlan, describe_plan

if TYPE_CHECKING:
    from workbench.exporters.monitoring.rules import Watch

REQUIRES = {"grafana_foundation_sdk": "monitoring"}
COMMAND: tuple[str, ...] = ()
OWN_SERVER = True

_SCRAPES = 4  # in a window: a rate needs two, and one may be lost
_REQUESTS = 1000  # in a window at the planned rate: ten failures at the limit of one in a hundred
_LONGEST = 3600


@dataclass(frozen=True)
class Options:
    """Where things are, and how closely they are watched."""

    target: Annotated[str, option("Host and port of the service.", example="127.0.0.1:8000")] = "127.0.0.1:8000"
    webhook: Annotated[
        str, option("URL that alerts are sent to; nobody is called if empty.", example="http://127.0.0.1:9099/alerts")
    ] = ""
    key_file: Annotated[
        str,
        option("File with the service's key, if it has one, from Prometheus' folder.", example="key", advanced=True),
    ] = ""
    interval_seconds: Annotated[
        int, option("Between two looks at the service.", minimum=1, maximum=300, unit="s", advanced=True)
    ] = 15
    window_seconds: (
        Annotated[
            int,
            option(
                "Over which rates and percentiles are taken; from the planned rate if empty.",
                minimum=4,
                maximum=86_400,
                unit="s",
                advanced=True,
            ),
        ]
        | None
    ) = None
    prometheus: Annotated[str, option("Host and port of Prometheus.", example="127.0.0.1:9090", advanced=True)] = (
        "127.0.0.1:9090"
    )
    alertmanager: Annotated[str, option("Host and port of Alertmanager.", example="127.0.0.1:9093", advanced=True)] = (
        "127.0.0.1:9093"
    )
    grafana: Annotated[str, option("Host and port of Grafana.", example="127.0.0.1:3000", advanced=True)] = (
        "127.0.0.1:3000"
    )


def export(contents: Contents, options: Options, directory: Path) -> None:
    """Fills `directory`.

    Raises:
        OptionsError: An address is none, or the window holds too few looks.
    """
    import yaml

    from workbench.exporters.monitoring.alerts import alerts
    from workbench.exporters.monitoring.dashboard import dashboard
    from workbench.exporters.monitoring.rule_tests import promtool_tests
    from workbench.exporters.monitoring.rules import Watch, recordings, rule_file

    _check(options)
    window = _window(contents.plan, options)
    watch = Watch(contents.name, contents.plan, options.interval_seconds, window, _hold(options, window))
    templates = Path(__file__).parent / "templates"
    words = _words(contents, options, watch)
    for path in sorted(found for found in templates.rglob("*") if found.is_file()):
        text = Template(path.read_text(encoding="utf-8")).substitute(words)
        _write(directory / path.relative_to(templates), text)
    rules = directory / "prometheus" / "rules"
    _write(
        rules / "recording.yml",
        f"# Series that alerts and dashboard share.\n{rule_file(watch, 'series', recordings(watch))}",
    )
    _write(rules / "alerts.yml", f"# When somebody is called.\n{rule_file(watch, 'alerts', alerts(watch))}")
    tests = yaml.safe_dump(promtool_tests(watch), sort_keys=False, allow_unicode=True, width=10_000)
    _write(
        directory / "prometheus" / "tests.yml",
        f"# Tests of the rules: promtool test rules prometheus/tests.yml\n{tests}",
    )
    _write(directory / "grafana" / "dashboards" / f"{contents.name}.json", dashboard(watch))


def _check(options: Options) -> None:
    for name in ("target", "prometheus", "alertmanager", "grafana"):
        value = getattr(options, name)
        _, _, port = value.rpartition(":")
        if not re.fullmatch(r"([\w.-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}", value) or not 0 < int(port) < 65_536:
            raise OptionsError(f"exporter monitoring cannot take {name} = {value!r:.80}.", "Write host:port.")
    if options.webhook and not _is_url(options.webhook):
        raise OptionsError(
            f"exporter monitoring cannot take webhook = {options.webhook!r:.80}.", "Write a URL that starts with http."
        )
    if not (options.key_file or "key").isprintable():
        raise OptionsError(f"exporter monitoring cannot take key_file = {options.key_file!r:.80}.", "Write a path.")
    least = _SCRAPES * options.interval_seconds
    if options.window_seconds is not None and options.window_seconds < least:
        raise OptionsError(
            f"A window of {options.window_seconds} s holds fewer than {_SCRAPES} looks, one every "
            f"{options.interval_seconds} s.",
            f"Choose a window of at least {least} s, or look more often.",
        )


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and text.isprintable()
    except ValueError:
        return False


def _window(plan: ServingPlan, options: Options) -> Derived:
    if options.window_seconds is not None:
        return Derived(options.window_seconds, "s", "as chosen", measured=False)
    rate, least = plan.rate_per_replica, 20 * options.interval_seconds
    asked = math.ceil(_REQUESTS / rate.value)
    if asked <= least:
        return Derived(least, "s", f"20 looks, in which {rate.value:g} queries/s are more than {_REQUESTS} requests")
    if asked <= _LONGEST:
        return Derived(asked, "s", f"{_REQUESTS} requests at {rate.value:g} queries/s: {rate.source}", rate.measured)
    return Derived(_LONGEST, "s", f"the longest sensible one: {rate.value:g} queries/s are few", rate.measured)


def _hold(options: Options, window: Derived) -> Derived:
    value = max(2 * options.interval_seconds, round(window.value / 5))
    return Derived(value, "s", "a fifth of the window, at least two looks: one bad look calls nobody", measured=False)


def _words(contents: Contents, options: Options, watch: Watch) -> Mapping[str, str]:
    from workbench.exporters.monitoring.alerts import alerts
    from workbench.exporters.monitoring.dashboard import GRAFANA
    from workbench.exporters.monitoring.rules import seconds

    host, _, port = options.grafana.rpartition(":")
    # JSON's strings are YAML's too.
    hook = f"    webhook_configs:\n      - url: {json.dumps(options.webhook)}\n        send_resolved: true"
    key = f"    authorization:\n      credentials_file: {json.dumps(options.key_file)}\n"
    rows = [(alert.name, alert.severity, *_cells(alert.threshold)) for alert in alerts(watch)]
    return {
        "name": contents.name,
        "candidate": contents.candidate.name,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "target": options.target,
        "authorization": key if options.key_file else "",
        "prometheus": options.prometheus,
        "alertmanager": options.alertmanager,
        "grafana": options.grafana,
        "grafana_host": host.strip("[]"),
        "grafana_port": port,
        "grafana_version": GRAFANA,
        "interval": seconds(options.interval_seconds),
        "timeout": seconds(min(10, options.interval_seconds)),
        "window": seconds(watch.window.value),
        "window_source": watch.window.source,
        "hold": seconds(watch.hold.value),
        "hold_source": watch.hold.source,
        "webhook_configs": hook if options.webhook else "    # none was given: alerts show in Alertmanager only",
        # The rest of the URL may be a secret.
        "called": urlsplit(options.webhook).hostname or "nobody yet: give a webhook in `alertmanager/alertmanager.yml`",
        "alerts": _table(("alert", "severity", "limit", "derived from"), rows),
        "numbers": _table(("number", "value", "derived from"), describe_plan(contents.plan)),
    }


def _cells(limit: Derived) -> tuple[str, str]:
    return f"{limit.value:g} {limit.unit}".strip(), limit.source + ("" if limit.measured else ", not measured")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
