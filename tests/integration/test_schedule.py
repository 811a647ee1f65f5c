"""The schedule through the API, as the worker's DBOS keeps it."""

from datetime import UTC, datetime

import httpx
from running_stack import Stack, wait_until

USUAL = {
    "cron": "0 3 * * *",
    "timezone": "UTC",
    "min_new_texts": 10,
    "quiet_minutes": 60.0,
    "min_gap_hours": 8.0,
    "window_hours": 0.0,
    "online": False,
    "online_per_hour": 20,
}


def test_show_set_pause_and_resume(stack: Stack) -> None:
    with stack.client() as client:
        shown = client.get("/v1/schedule").json()
        assert {key: shown[key] for key in USUAL} == USUAL and shown["paused"] is False
        changed = client.put(
            "/v1/schedule",
            json={"cron": "30 4 * * 1", "timezone": "Europe/Oslo", "window_hours": 6},
        ).json()
        assert changed["min_new_texts"] == 10 and changed["window_hours"] == 6
        assert datetime.fromisoformat(changed["next_run"]) > datetime.now(UTC)
        paused = client.put("/v1/schedule", json={"paused": True}).json()
        assert paused["next_run"] is None
        assert client.get("/v1/schedule").json() == paused
        resumed = client.put("/v1/schedule", json={**USUAL, "paused": False}).json()
        assert resumed == client.get("/v1/schedule").json()
        for refused in ({"cron": "never"}, {"quiet_minutes": -1}, {"online_per_hour": 0}):
            assert client.put("/v1/schedule", json=refused).status_code == 400
        assert client.get("/v1/schedule").json() == resumed


def test_a_schedule_that_fires_refreshes_who_is_due(stack: Stack) -> None:
    """Every minute, for whoever has eight new texts."""
    with stack.client() as client:
        _add(client, "nightly")
        # Fewer than the usual ten, so that eight texts are enough.
        client.put("/v1/schedule", json={"cron": "* * * * *", "min_new_texts": 8})
        try:
            _wait_refreshed(client, "nightly")
        finally:
            client.put("/v1/schedule", json=USUAL)
        _check_refreshed(client, "nightly", "nightly")


def test_a_round_that_is_run_now_shows_its_plan(stack: Stack) -> None:
    with stack.client() as client:
        _add(client, "prompt")
        client.put("/v1/schedule", json={"paused": True, "min_new_texts": 8})
        try:
            started = client.post("/v1/schedule/run").json()
        finally:
            client.put("/v1/schedule", json={**USUAL, "paused": False})
        assert "prompt" in [refresh["user"] for refresh in started["data"]]
        plan = client.get("/v1/schedule/plan").json()
        assert plan["id"] == started["plan"]["id"] and plan["carried_over"] == 0
        assert "prompt" in [entry["user"] for entry in plan["entries"]]
        assert client.get("/v1/schedule").json()["last_plan"]["id"] == plan["id"]
        _wait_refreshed(client, "prompt")


def test_texts_that_arrive_refresh_their_user_in_online_mode(stack: Stack) -> None:
    with stack.client() as client:
        client.put("/v1/schedule", json={"online": True, "min_new_texts": 8})
        try:
            _add(client, "online")
            _wait_refreshed(client, "online")
        finally:
            client.put("/v1/schedule", json=USUAL)
        _check_refreshed(client, "online", "online")


def _add(client: httpx.Client, name: str) -> None:
    client.post("/v1/users", json={"name": name}).raise_for_status()
    rows = [
        f'{{"query": "post {i}", "text": "my dear diary, day {i} by {name}"}}' for i in range(8)
    ]
    client.post(f"/v1/users/{name}/history", content="\n".join(rows)).raise_for_status()


def _wait_refreshed(client: httpx.Client, name: str) -> None:
    def refreshed() -> bool:
        rows = client.get(f"/v1/users/{name}/refreshes").json()["data"]
        return bool(rows) and rows[0]["status"] in ("succeeded", "failed")

    wait_until(refreshed, 540)


def _check_refreshed(client: httpx.Client, name: str, origin: str) -> None:
    (row,) = client.get(f"/v1/users/{name}/refreshes").json()["data"]
    assert row["status"] == "succeeded" and row["origin"] == origin, row
