import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from gateway_command import GatewayCommand
from scripted_gateway import ScriptedGateway
from scripted_records import KEY, REPLY

TEXT = "".join(text for text, _ in REPLY)
COMMANDS = [
    "up",
    "chat",
    "pir",
    "refresh",
    *[f"users {name}" for name in ("add", "list", "show", "consent", "share", "export", "erase")],
    *[f"facts {name}" for name in ("add", "list", "remove")],
    "history import",
    *[f"adapters {name}" for name in ("list", "show", "rollback", "verify")],
    *[f"schedule {name}" for name in ("show", "set", "pause", "resume", "run-now", "plan")],
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_text(attune: GatewayCommand, command: str) -> None:
    ran = attune(*command.split(), "--help", connected=False)
    assert ran.code == 0
    assert "Usage" in ran.out
    assert len(ran.out.splitlines()) > 5


def test_users_are_added_with_their_key_shown_once(attune: GatewayCommand) -> None:
    assert "attune-bbbb" in attune("users", "add", "zoe").out
    assert "attune-" not in attune("users", "show", "zoe").out
    listed = attune("users", "list", "--json").json
    assert [user["name"] for user in listed["users"]] == ["maeve", "otto", "zoe"]


def test_a_name_that_is_taken_is_refused_in_one_sentence(attune: GatewayCommand) -> None:
    ran = attune("users", "add", "maeve")
    assert ran.code == 1
    assert ran.out == ""
    assert ran.err == "There is a user 'maeve' already.\n"


def test_erasing_needs_a_yes(attune: GatewayCommand, fake_gateway: ScriptedGateway) -> None:
    options = ["--url", fake_gateway.url, "--key", KEY]
    command = [sys.executable, "-m", "scripts.attune.main", "users", "erase", "otto", *options]
    refused = subprocess.run(command, input="n\n", capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout.strip()) == (1, "")
    assert "cannot be undone" in refused.stderr
    assert "otto" in fake_gateway.users
    unasked = attune("users", "erase", "otto", "--json")
    assert (unasked.code, unasked.out) == (1, "")
    assert "--yes" in unasked.err
    assert "otto" in fake_gateway.users
    erased = attune("users", "erase", "otto", "--yes", "--json")
    assert erased.json["object"] == "user.erased"
    assert "otto" not in fake_gateway.users


def test_export_writes_a_file_or_standard_output(attune: GatewayCommand, tmp_path: Path) -> None:
    file = tmp_path / "otto.json"
    assert attune("users", "export", "otto").json["user"] == "otto"
    assert attune("users", "export", "otto", "--output", str(file)).code == 0
    assert json.loads(file.read_text())["user"] == "otto"


def test_export_to_a_folder_that_is_not_there_is_one_sentence(
    attune: GatewayCommand, tmp_path: Path
) -> None:
    ran = attune("users", "export", "otto", "--output", str(tmp_path / "no" / "otto.json"))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.endswith("cannot be written (No such file or directory): name another file.\n")


def test_facts_are_added_listed_and_removed(attune: GatewayCommand) -> None:
    added = attune("facts", "add", "otto", "I [bold]oil[/bold] clocks.", "--json").json
    assert "I [bold]oil[/bold] clocks." in attune("facts", "list", "otto").out
    assert attune("facts", "remove", "otto", str(added["id"])).code == 0
    left = attune("facts", "list", "otto", "--json").json["facts"]
    assert [fact["text"] for fact in left] == ["I repair clocks."]
    gone = attune("facts", "remove", "otto", "99")
    assert (gone.code, gone.err) == (1, "otto has no fact 99.\n")


def test_an_import_keeps_good_lines_and_names_bad_ones(
    attune: GatewayCommand, tmp_path: Path
) -> None:
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
    attune: GatewayCommand, tmp_path: Path, content: str, code: int
) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text(content)
    assert attune("history", "import", "otto", str(file), "--json").code == code


def test_a_chat_streams_the_reply(attune: GatewayCommand) -> None:
    assert attune("chat", "maeve", "Hi").out == TEXT + "\n"


def test_a_chat_with_pir_counts_the_personal_words(attune: GatewayCommand) -> None:
    out = attune("chat", "maeve", "Hi", "--pir").out
    assert TEXT in out
    assert "5 of 18 words depend on the persona in the prompt" in out


def test_a_chat_passes_its_options_on(
    attune: GatewayCommand, fake_gateway: ScriptedGateway
) -> None:
    options = ["--contrast", "adapter", "--adapter", "v1", "--no-persona", "--no-store", "--pir"]
    ran = attune("chat", "maeve", "Hi", *options, "--json").json
    assert ran["text"] == TEXT
    assert ran["personalization"]["context"] == []
    body = fake_gateway.requests[-1][2]
    assert body["store"] is False
    assert body["personalization"] == {
        "persona": False,
        "adapter": "v1",
        "pir": True,
        "contrast": "adapter",
        "conversation": None,
    }


def test_a_contrast_without_pir_is_a_usage_error(
    attune: GatewayCommand, fake_gateway: ScriptedGateway
) -> None:
    ran = attune("chat", "maeve", "Hi", "--contrast", "adapter")
    assert ran.code == 2
    assert "add --pir" in ran.err
    assert fake_gateway.requests == []


def test_a_chat_whose_engine_dies_is_one_sentence(
    attune: GatewayCommand, fake_gateway: ScriptedGateway
) -> None:
    fake_gateway.break_stream = True
    ran = attune("chat", "maeve", "Hi")
    assert ran.code == 1
    assert ran.err == "The engine went away during the reply: try again in a minute.\n"


def test_pir_scores_any_reply(attune: GatewayCommand, fake_gateway: ScriptedGateway) -> None:
    options = ["--query", "Hi", "--reply", TEXT, "--contrast", "adapter"]
    out = attune("pir", "maeve", *options).out
    assert "words depend on the adapter" in out
    assert "2.80" in out
    scored = attune("pir", "maeve", *options, "--json").json
    assert scored["contrast"] == "adapter"
    assert {"pir", "words", "context"} <= scored.keys()
    assert fake_gateway.requests[-1][2]["reply"] == TEXT


def test_an_unknown_contrast_is_a_usage_error(attune: GatewayCommand) -> None:
    ran = attune("pir", "maeve", "--query", "a", "--reply", "b", "--contrast", "mood")
    assert ran.code == 2
    assert "persona" in ran.err


def test_no_gateway_is_one_sentence(attune: GatewayCommand) -> None:
    ran = attune("users", "list", "--url", "http://127.0.0.1:1", "--key", KEY, connected=False)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("No gateway answers at http://127.0.0.1:1.")


def test_a_wrong_key_is_one_sentence(attune: GatewayCommand) -> None:
    ran = attune("users", "list", "--url", attune.url, "--key", "wrong", connected=False)
    assert (ran.code, ran.err) == (1, "The key is missing or unknown.\n")


def test_the_key_is_read_from_the_installations_home(
    attune: GatewayCommand, tmp_path: Path
) -> None:
    options = ["--url", attune.url, "--key", "", "--home", str(tmp_path)]
    without = attune("users", "list", *options, connected=False)
    assert without.code == 1
    assert without.err.startswith("No key: pass --key")
    (tmp_path / "admin.key").write_text(KEY + "\n")
    assert attune("users", "list", *options, "--json", connected=False).code == 0


def test_control_characters_of_a_reply_do_not_reach_the_terminal(
    attune: GatewayCommand, fake_gateway: ScriptedGateway
) -> None:
    fake_gateway.users["otto"]["facts"][0]["text"] = "I \x1b[31mrepair\x07 clocks."
    out = attune("facts", "list", "otto").out
    assert "\x1b" not in out
    assert "\x07" not in out
