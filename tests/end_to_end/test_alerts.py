"""The alerts lead to the runbook, and each is tried. promtool tries them (.ci/run); here is looked at what it tries."""

import re
from typing import Any

import yaml

from tests.stack import ROOT

DOCS = ROOT / "docs"


def rules() -> dict[str, Any]:
    """Every alert, by its name."""
    groups = yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def test_every_alert_leads_to_the_section_that_the_runbook_names_for_it() -> None:
    """At night one click decides, and a heading that was renamed leads to the top of a long page."""
    runbook = (DOCS / "operations.md").read_text()
    table = runbook.partition("## Alerts")[2].partition("\n## ")[0]
    named = dict(re.findall(r"^\| `(\w+)` \| \[[^]]*\]\((#[\w-]+)\)", table, flags=re.MULTILINE))
    assert {name: rule["annotations"]["runbook_url"] for name, rule in rules().items()} == {
        name: f"docs/operations.md{anchor}" for name, anchor in named.items()
    }


def test_every_alert_says_what_it_is_and_whom_it_wakes() -> None:
    for name, rule in rules().items():
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}, name
        assert rule["labels"]["severity"] in {"page", "ticket"}, name


def test_every_alert_is_seen_to_fire_and_none_fires_where_all_is_well() -> None:
    """With the labels by which it is routed."""
    tests = yaml.safe_load((DOCS / "alerts.test.yml").read_text())["tests"]
    expected = [one.get("exp_samples", []) for test in tests for one in test["promql_expr_test"]]
    fired = re.findall(r'alertname="(\w+)",alertstate="firing",.*severity="(\w+)"', "\n".join(map(repr, expected)))
    assert {(name, rule["labels"]["severity"]) for name, rule in rules().items()} == set(fired)
    assert not any(expected[:2])
