"""The campaign of docs/reliability.md, shorter: nothing leaks, nothing is wrong and silent, every card comes back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import campaign


def clean(done: campaign.Campaign) -> None:
    assert done.problems == []
    for each in done.outcomes.values():
        assert each.wrong == 0 and each.errors + each.harmless == each.injected, each
        assert each.errors == sum(each.by.values()), each


def test_a_short_campaign(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "found.json"
    assert campaign.main(["--boots", "12", "--faults", "9", "--json", str(report)]) == 0
    found = json.loads(report.read_text())
    assert found["problems"] == [] and found["warm"] == 8
    assert sum(each["injected"] for each in found["outcomes"].values()) == 9
    assert found["outcomes"]["wave that never ends"] == {"injected": 1, "errors": 1, "harmless": 0, "wrong": 0,
                                                         "by": {"queue": 1}}
    text = capsys.readouterr().out
    assert "| bad SDMA packet | 1 | 1 | 0 | queue 1 | 0 |" in text and "Nothing else was found." in text


def test_what_leaks_is_found() -> None:
    done = campaign.Campaign()
    less, more = campaign.Holdings(1 << 20, 5, 2, 0), campaign.Holdings(9 << 20, 6, 3, 1, 4096)
    done._compare("boots", less, more, 1000)
    assert [problem.split(" grew")[0] for problem in done.problems] == [
        "boots: descriptors", "boots: threads", "boots: on_bus", "boots: vram", "boots: resident memory"]


@pytest.mark.slow
def test_boots_and_every_kind_of_fault_twice() -> None:
    done = campaign.Campaign(seed=1)
    done.boots(60)
    done.faults(2 * len(campaign.FAULTS))
    clean(done)
    rungs = {rung for each in done.outcomes.values() for rung in each.by}
    assert rungs == {*campaign.RUNGS, "opened again"}


def test_the_pages_table_is_the_campaigns() -> None:
    page = campaign.DOCS.read_text()
    part = page[page.index(campaign.BEGIN):page.index(campaign.END)]
    for name, _, _ in campaign.FAULTS:
        assert f"| {name} |" in part, f"python -m tools.campaign --docs: {name} is not in the page"
