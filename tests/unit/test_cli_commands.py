import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scripted_gateway import ScriptedGateway
from scripted_records import KEY, REPLY, new_finding

from scripts.attune.main import main

TEXT = "".join(text for text, _ in REPLY)
COMMANDS = [
    "up",
    "chat",
    "pir",
    "refresh",
    *[f"users {name}" for name in ("add", "list", "show", "export", "erase")],
    *[f"facts {name}" for name in ("add", "list", "remove")],
    "history import",
    *[f"adapters {name}" for name in ("list", "show", "rollback", "verify")],
    *[f"schedule {name}" for name in ("show", "set", "pause", "resume", "run-now", "plan")],
]


@dataclass
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - JSON
        return json.loads(self.out)


@dataclass
class Command:
    """The command against a scripted gateway."""

    url: str
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str, connected: bool = True) -> Ran:
        connection = ["--url", self.url, "--key", KEY] if connected else []
        with pytest.raises(SystemExit) as exit:
            main([*arguments, *connection])
        out, err = self.capsys.readouterr()
        code = exit.value.code
        assert code is None or isinstance(code, int)
        return Ran(code or 0, out, err)


@pytest.fixture
def fake() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as fake:
        yield fake


@pytest.fixture
def attune(fake: ScriptedGateway, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(fake.url, capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_text(attune: Command, command: str) -> None:
    ran = attune(*command.split(), "--help", connected=False)
    assert ran.code == 0
    assert "Usage" in ran.out
    assert len(ran.out.splitlines()) > 5


def test_users_are_added_with_their_key_shown_once(attune: Command) -> None:
    assert "attune-bbbb" in attune("users", "add", "zoe").out
    assert "attune-" not in attune("users", "show", "zoe").out
    listed = attune("users", "list", "--json").json
    assert [user["name"] for user in listed["users"]] == ["maeve", "otto", "zoe"]


def test_a_name_that_is_taken_is_refused_in_one_sentence(attune: Command) -> None:
    ran = attune("users", "add", "maeve")
    assert ran.code == 1
    assert ran.out == ""
    assert ran.err == "There is a user 'maeve' already.\n"


def test_erasing_needs_a_yes(attune: Command, fake: ScriptedGateway) -> None:
    options = ["--url", fake.url, "--key", KEY]
    command = [sys.executable, "-m", "scripts.attune.main", "users", "erase", "otto", *options]
    refused = subprocess.run(command, input="n\n", capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout.strip()) == (1, "")
    assert "cannot be undone" in refused.stderr
    assert "otto" in fake.users
    unasked = attune("users", "erase", "otto", "--json")
    assert (unasked.code, unasked.out) == (1, "")
    assert "--yes" in unasked.err
    assert "otto" in fake.users
    erased = attune("users", "erase", "otto", "--yes", "--json")
    assert erased.json["object"] == "user.erased"
    assert "otto" not in fake.users


def test_export_writes_a_file_or_standard_output(attune: Command, tmp_path: Path) -> None:
    file = tmp_path / "otto.json"
    assert attune("users", "export", "otto").json["user"] == "otto"
    assert attune("users", "export", "otto", "--output", str(file)).code == 0
    assert json.loads(file.read_text())["user"] == "otto"


def test_export_to_a_folder_that_is_not_there_is_one_sentence(
    attune: Command, tmp_path: Path
) -> None:
    ran = attune("users", "export", "otto", "--output", str(tmp_path / "no" / "otto.json"))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.endswith("cannot be written (No such file or directory): name another file.\n")


def test_facts_are_added_listed_and_removed(attune: Command) -> None:
    added = attune("facts", "add", "otto", "I [bold]oil[/bold] clocks.", "--json").json
    assert "I [bold]oil[/bold] clocks." in attune("facts", "list", "otto").out
    assert attune("facts", "remove", "otto", str(added["id"])).code == 0
    left = attune("facts", "list", "otto", "--json").json["facts"]
    assert [fact["text"] for fact in left] == ["I repair clocks."]
    gone = attune("facts", "remove", "otto", "99")
    assert (gone.code, gone.err) == (1, "otto has no fact 99.\n")


def test_an_import_keeps_good_lines_and_names_bad_ones(attune: Command, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"query": "q", "text": "t"}\nnot json\n'))
    first = attune("history", "import", "otto", str(file))
    assert first.code == 0
    assert "1 added" in first.out
    assert "2     this is no JSON" in first.out
    again = attune("history", "import", "otto", str(file), "--json")
    assert again.code == 0
    assert again.json == {
        "imported": 0,
        "duplicates": 1,
        "errors": [{"line": 2, "reason": "this is no JSON"}],
    }


@pytest.mark.parametrize(("content", "code"), [("bad\nworse\n", 1), ("", 0)])
def test_an_import_fails_only_if_all_its_lines_are_bad(
    attune: Command, tmp_path: Path, content: str, code: int
) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text(content)
    assert attune("history", "import", "otto", str(file), "--json").code == code


def test_a_chat_streams_the_reply(attune: Command) -> None:
    assert attune("chat", "maeve", "Hi").out == TEXT + "\n"


def test_a_chat_with_pir_counts_the_personal_words(attune: Command) -> None:
    out = attune("chat", "maeve", "Hi", "--pir").out
    assert TEXT in out
    assert "5 of 18 words depend on the persona in the prompt" in out


def test_a_chat_passes_its_options_on(attune: Command, fake: ScriptedGateway) -> None:
    options = ["--contrast", "adapter", "--adapter", "v1", "--no-persona", "--no-store", "--pir"]
    ran = attune("chat", "maeve", "Hi", *options, "--json").json
    assert ran["text"] == TEXT
    assert ran["personalization"]["context"] == []
    body = fake.requests[-1][2]
    assert body["store"] is False
    assert body["personalization"] == {
        "persona": False,
        "adapter": "v1",
        "pir": True,
        "contrast": "adapter",
        "conversation": None,
    }


def test_a_chat_whose_engine_dies_is_one_sentence(attune: Command, fake: ScriptedGateway) -> None:
    fake.break_stream = True
    ran = attune("chat", "maeve", "Hi")
    assert ran.code == 1
    assert ran.err == "The engine went away during the reply: try again in a minute.\n"


def test_pir_scores_any_reply(attune: Command, fake: ScriptedGateway) -> None:
    options = ["--query", "Hi", "--reply", TEXT, "--contrast", "adapter"]
    out = attune("pir", "maeve", *options).out
    assert "words depend on the adapter" in out
    assert "2.80" in out
    scored = attune("pir", "maeve", *options, "--json").json
    assert scored["contrast"] == "adapter"
    assert {"pir", "words", "context"} <= scored.keys()
    assert fake.requests[-1][2]["reply"] == TEXT


def test_an_unknown_contrast_is_a_usage_error(attune: Command) -> None:
    ran = attune("pir", "maeve", "--query", "a", "--reply", "b", "--contrast", "mood")
    assert ran.code == 2
    assert "persona" in ran.err


def test_a_refresh_is_queued_at_once(attune: Command) -> None:
    ran = attune("refresh", "maeve", "--method", "ce", "--json").json
    assert [each["status"] for each in ran["refreshes"]] == ["queued"]
    assert ran["refreshes"][0]["method"] == "ce"


def test_a_refresh_with_wait_ends_with_its_verdict(attune: Command) -> None:
    ran = attune("refresh", "maeve", "--wait", "--poll", "0.01", "--json")
    assert ran.code == 0
    (refresh,) = ran.json["refreshes"]
    assert (refresh["verdict"], refresh["adapter"]) == ("publish", "v2")
    assert refresh["held_out_loss"]["candidate"] == 2.871


def test_a_refresh_that_waits_is_cancelled(attune: Command, fake: ScriptedGateway) -> None:
    attune("refresh", "maeve")
    ran = attune("refresh", "maeve", "--cancel", "--json")
    assert ran.code == 0
    assert [each["status"] for each in ran.json["refreshes"]] == ["cancelled"]
    again = attune("refresh", "maeve", "--cancel")
    assert again.code == 1
    assert "there is nothing to cancel" in again.err


def test_waiting_outlives_a_restart_of_the_gateway(attune: Command, fake: ScriptedGateway) -> None:
    for _ in range(3):
        fake.fail("/refreshes/", 503, "The gateway is starting.")
    ran = attune("refresh", "maeve", "--wait", "--poll", "0.01", "--json")
    assert ran.code == 0
    assert ran.json["refreshes"][0]["verdict"] == "publish"


@pytest.mark.parametrize(("status", "patience"), [(503, "0"), (404, "300")])
def test_waiting_ends_with_patience_and_with_a_refusal(
    attune: Command, fake: ScriptedGateway, status: int, patience: str
) -> None:
    fake.fail("/refreshes/", status, "This is why.")
    ran = attune("refresh", "maeve", "--wait", "--poll", "0.01", "--patience", patience)
    assert ran.code == 1
    assert "This is why." in ran.err


def test_one_refused_refresh_does_not_stop_the_others(attune: Command) -> None:
    ran = attune("refresh", "otto", "maeve", "nobody", "--wait", "--poll", "0.01")
    assert ran.code == 1
    assert "publish" in ran.out
    assert "otto has too few texts" in ran.err
    assert "There is no user 'nobody'" in ran.err


def test_adapters_are_verified_and_repaired(attune: Command, fake: ScriptedGateway) -> None:
    clean = attune("adapters", "verify", "--json")
    assert (clean.code, clean.json) == (
        0,
        {"ok": True, "users": 2, "versions": 2, "findings": []},
    )
    fake.findings = [new_finding("stray", "u9"), new_finding("damaged", "u1/v2")]
    ran = attune("adapters", "verify")
    assert ran.code == 1 and "2 findings." in ran.out and "Do this." in ran.out
    repaired = attune("adapters", "verify", "--repair", "--json")
    assert repaired.code == 1
    assert [finding["repaired"] for finding in repaired.json["findings"]] == [True, False]
    fake.findings = fake.findings[:1]
    assert attune("adapters", "verify", "maeve", "--repair").code == 0
    assert fake.requests[-1][2] == {"user": "maeve", "after": 0, "repair": True}


def test_adapters_are_listed_shown_and_rolled_back(attune: Command) -> None:
    attune("refresh", "maeve", "--wait", "--poll", "0.01")
    assert attune("adapters", "list", "maeve", "--json").json["active"] == "v2"
    assert attune("adapters", "show", "maeve", "--json").json["version"] == "v2"
    assert "maeve@v1" in attune("adapters", "show", "maeve", "v1").out
    rolled = attune("adapters", "rollback", "maeve", "--to", "v1", "--json").json
    assert rolled["active"] == "v1"


def test_a_version_that_is_not_there_is_one_sentence(attune: Command) -> None:
    ran = attune("adapters", "show", "maeve", "v9")
    assert ran.code == 1
    assert ran.err.startswith("maeve has no adapter v9")


def test_the_schedule_is_set_paused_resumed_and_run(attune: Command, fake: ScriptedGateway) -> None:
    changed = attune(
        "schedule", "set", "30 2 * * *", "--timezone", "Europe/Berlin", "--min-new-texts", "3"
    )
    assert "30 2 * * * (Europe/Berlin)" in changed.out
    assert fake.requests[-1][2] == {
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
    assert fake.requests[-1][2] == {"window_hours": 6.0, "online": True}
    assert "6 h" in rule and "20 an hour" in rule
    assert attune("schedule", "set").code == 2
    bad = attune("schedule", "set", "daily")
    assert (bad.code, bad.out) == (1, "")
    assert "no cron expression" in bad.err


def test_no_gateway_is_one_sentence(attune: Command) -> None:
    ran = attune("users", "list", "--url", "http://127.0.0.1:1", "--key", KEY, connected=False)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("No gateway answers at http://127.0.0.1:1.")


def test_a_wrong_key_is_one_sentence(attune: Command) -> None:
    ran = attune("users", "list", "--url", attune.url, "--key", "wrong", connected=False)
    assert (ran.code, ran.err) == (1, "The key is missing or unknown.\n")


def test_the_key_is_read_from_the_installations_home(attune: Command, tmp_path: Path) -> None:
    options = ["--url", attune.url, "--key", "", "--home", str(tmp_path)]
    without = attune("users", "list", *options, connected=False)
    assert without.code == 1
    assert without.err.startswith("No key: pass --key")
    (tmp_path / "admin.key").write_text(KEY + "\n")
    assert attune("users", "list", *options, "--json", connected=False).code == 0


def test_control_characters_of_a_reply_do_not_reach_the_terminal(
    attune: Command, fake: ScriptedGateway
) -> None:
    fake.users["otto"]["facts"][0]["text"] = "I \x1b[31mrepair\x07 clocks."
    out = attune("facts", "list", "otto").out
    assert "\x1b" not in out
    assert "\x07" not in out
