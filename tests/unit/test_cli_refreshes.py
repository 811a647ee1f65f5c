from io import StringIO

import pytest
from gateway_command import GatewayCommand
from rich.console import Console
from scripted_gateway import ScriptedGateway
from scripted_records import new_finding, new_plan

from scripts.attune.tables import round_table
from ui.records import Round


def test_a_refresh_is_queued_at_once(attune: GatewayCommand) -> None:
    ran = attune("refresh", "maeve", "--method", "ce", "--json").json
    assert [each["status"] for each in ran["refreshes"]] == ["queued"]
    assert ran["refreshes"][0]["method"] == "ce"


def test_a_refresh_with_wait_ends_with_its_verdict(attune: GatewayCommand) -> None:
    ran = attune("refresh", "maeve", "--wait", "--poll", "0.01", "--json")
    assert ran.code == 0
    (refresh,) = ran.json["refreshes"]
    assert (refresh["verdict"], refresh["adapter"]) == ("publish", "v2")
    assert refresh["held_out_loss"]["candidate"] == 2.871


def test_a_refresh_that_waits_is_cancelled(
    attune: GatewayCommand, fake_gateway: ScriptedGateway
) -> None:
    attune("refresh", "maeve")
    ran = attune("refresh", "maeve", "--cancel", "--json")
    assert ran.code == 0
    assert [each["status"] for each in ran.json["refreshes"]] == ["cancelled"]
    again = attune("refresh", "maeve", "--cancel")
    assert again.code == 1
    assert "there is nothing to cancel" in again.err


def test_a_method_to_cancel_with_is_a_usage_error(
    attune: GatewayCommand, fake_gateway: ScriptedGateway
) -> None:
    attune("refresh", "maeve")
    ran = attune("refresh", "maeve", "--cancel", "--method", "ce")
    assert ran.code == 2
    assert "leave it out" in ran.err
    assert [one["status"] for one in fake_gateway.users["maeve"]["refreshes"]] == ["queued"]


def test_waiting_outlives_a_restart_of_the_gateway(
    attune: GatewayCommand, fake_gateway: ScriptedGateway
) -> None:
    for _ in range(3):
        fake_gateway.fail("/refreshes/", 503, "The gateway is starting.")
    ran = attune("refresh", "maeve", "--wait", "--poll", "0.01", "--json")
    assert ran.code == 0
    assert ran.json["refreshes"][0]["verdict"] == "publish"


@pytest.mark.parametrize(("status", "patience"), [(503, "0"), (404, "300")])
def test_waiting_ends_with_patience_and_with_a_refusal(
    attune: GatewayCommand, fake_gateway: ScriptedGateway, status: int, patience: str
) -> None:
    fake_gateway.fail("/refreshes/", status, "This is why.")
    ran = attune("refresh", "maeve", "--wait", "--poll", "0.01", "--patience", patience)
    assert ran.code == 1
    assert "This is why." in ran.err


def test_one_refused_refresh_does_not_stop_the_others(attune: GatewayCommand) -> None:
    ran = attune("refresh", "otto", "maeve", "nobody", "--wait", "--poll", "0.01")
    assert ran.code == 1
    assert "publish" in ran.out
    assert "otto has too few texts" in ran.err
    assert "There is no user 'nobody'" in ran.err


def test_adapters_are_verified_and_repaired(
    attune: GatewayCommand, fake_gateway: ScriptedGateway
) -> None:
    clean = attune("adapters", "verify", "--json")
    assert (clean.code, clean.json) == (
        0,
        {"ok": True, "users": 2, "versions": 2, "findings": []},
    )
    fake_gateway.findings = [new_finding("stray", "u9"), new_finding("damaged", "u1/v2")]
    ran = attune("adapters", "verify")
    assert ran.code == 1 and "2 findings." in ran.out and "Do this." in ran.out
    repaired = attune("adapters", "verify", "--repair", "--json")
    assert repaired.code == 1
    assert [finding["repaired"] for finding in repaired.json["findings"]] == [True, False]
    fake_gateway.findings = fake_gateway.findings[:1]
    assert attune("adapters", "verify", "maeve", "--repair").code == 0
    assert fake_gateway.requests[-1][2] == {"user": "maeve", "after": 0, "repair": True}


def test_adapters_are_listed_shown_and_rolled_back(attune: GatewayCommand) -> None:
    attune("refresh", "maeve", "--wait", "--poll", "0.01")
    assert attune("adapters", "list", "maeve", "--json").json["active"] == "v2"
    assert attune("adapters", "show", "maeve", "--json").json["version"] == "v2"
    assert "maeve@v1" in attune("adapters", "show", "maeve", "v1").out
    rolled = attune("adapters", "rollback", "maeve", "--to", "v1", "--json").json
    assert rolled["active"] == "v1"


def test_a_version_that_is_not_there_is_one_sentence(attune: GatewayCommand) -> None:
    ran = attune("adapters", "show", "maeve", "v9")
    assert ran.code == 1
    assert ran.err.startswith("maeve has no adapter v9")


def test_the_schedule_is_set_paused_resumed_and_run(
    attune: GatewayCommand, fake_gateway: ScriptedGateway
) -> None:
    changed = attune(
        "schedule", "set", "30 2 * * *", "--timezone", "Europe/Berlin", "--min-new-texts", "3"
    )
    assert "30 2 * * * (Europe/Berlin)" in changed.out
    assert fake_gateway.requests[-1][2] == {
        "cron": "30 2 * * *",
        "timezone": "Europe/Berlin",
        "min_new_texts": 3,
    }
    assert attune("schedule", "pause", "--json").json["paused"] is True
    assert attune("schedule", "resume", "--json").json["paused"] is False
    started = attune("schedule", "run-now", "--json").json["refreshes"]
    assert [refresh["user"] for refresh in started] == ["otto"]
    plan = attune("schedule", "plan", "--json").json
    assert [(entry["rank"], entry["user"]) for entry in plan["entries"]] == [(1, "otto")]
    assert "otto" in attune("schedule", "plan").out
    rule = attune("schedule", "set", "--window-hours", "6", "--online").out
    assert fake_gateway.requests[-1][2] == {"window_hours": 6.0, "online": True}
    assert "6 h" in rule and "20 an hour" in rule
    assert attune("schedule", "set").code == 2
    bad = attune("schedule", "set", "daily")
    assert (bad.code, bad.out) == (1, "")
    assert "no cron expression" in bad.err


@pytest.mark.parametrize(
    ("due", "said", "unsaid"),
    [(2, "No refresh is open yet.", "Nobody"), (0, "Nobody is due", "open yet")],
)
def test_a_round_that_has_opened_nothing_says_why(due: int, said: str, unsaid: str) -> None:
    started = Round.model_validate({"run": "run-1", "plan": new_plan(due), "data": []})
    out = StringIO()
    Console(file=out, width=100).print(round_table(started))
    assert said in out.getvalue()
    assert unsaid not in out.getvalue()
