"""`attune users share` and `consent`: letting adapters learn from a user, and taking that back."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from scripted_answers import USER, Answer, Routes, refused
from scripted_gateway import ScriptedGateway
from scripted_records import KEY, new_version
from typer.testing import CliRunner, Result

from scripts.attune.adapters import app as adapters
from scripts.attune.users import app as users


@dataclass
class SharingGateway(ScriptedGateway):
    """A scripted gateway whose users allow something, or do not."""

    allowed: list[tuple[str, dict[str, bool]]] = field(default_factory=list)

    def _routes(self) -> Routes:
        listed = {"active": None, "answers": "population@v3"}
        return super()._routes() | {
            f"PATCH {USER}": self._change,
            f"GET {USER}/adapters": lambda name, _: (
                200,
                {**listed, "data": self.users[name]["adapters"]},
            ),
        }

    def _change(self, name: str, body: dict[str, bool]) -> Answer:
        if len(body) != 1 or not body.keys() <= {"consent", "shares"}:
            return refused(400, "One permission at a time can be changed here.")
        self.allowed.append((name, body))
        kept = {"facts": 0, "texts": 0, "consent": True, "shares": False, **body}
        return 200, {"object": "user", "name": name, "created_at": "2026-11-20", **kept}


@pytest.fixture
def fake() -> Iterator[SharingGateway]:
    with SharingGateway() as fake:
        yield fake


def run(fake: SharingGateway, app: object, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--url", fake.url, "--key", KEY])  # type: ignore[arg-type]


def test_sharing_is_begun_and_stopped(fake: SharingGateway) -> None:
    begun = run(fake, users, "share", "otto")
    assert begun.exit_code == 0 and fake.allowed == [("otto", {"shares": True})]
    assert "Shares texts with all" in begun.output and "yes" in begun.output
    stopped = run(fake, users, "share", "otto", "--stop", "--json")
    assert '"shares": false' in stopped.output
    assert fake.allowed[1:] == [("otto", {"shares": False})]


def test_consent_is_withdrawn_and_given_again(fake: SharingGateway) -> None:
    gone = run(fake, users, "consent", "otto", "--withdraw", "--json")
    assert gone.exit_code == 0 and '"consent": false' in gone.output
    assert run(fake, users, "consent", "otto").exit_code == 0
    assert fake.allowed == [("otto", {"consent": False}), ("otto", {"consent": True})]


def test_a_new_user_shares_only_if_that_is_said(fake: SharingGateway) -> None:
    run(fake, users, "add", "zoe")
    run(fake, users, "add", "ida", "--shares")
    bodies = [body for _, _, body in fake.requests]
    assert [body["shares"] for body in bodies] == [False, True]


def test_the_list_says_what_answers_who_has_no_version(fake: SharingGateway) -> None:
    assert "No version yet: population@v3 answers." in run(fake, adapters, "list", "otto").output
    gone = new_version("otto", 1, "withdrawn", "population@v2")
    fake.users["otto"]["adapters"] = [gone]
    listed = run(fake, adapters, "list", "otto").output
    assert "withdrawn" in listed and "population@v2" in listed
    assert "None is active: population@v3 answers." in listed
