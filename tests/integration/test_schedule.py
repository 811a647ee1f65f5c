"""The schedule through the API, as the worker's DBOS keeps it."""

from datetime import UTC, datetime

from running_stack import Stack, wait_until


def test_show_set_pause_and_resume(stack: Stack) -> None:
    with stack.client() as client:
        shown = client.get("/v1/schedule").json()
        assert (shown["cron"], shown["timezone"], shown["paused"]) == ("0 3 * * *", "UTC", False)
        changed = client.put(
            "/v1/schedule", json={"cron": "30 4 * * 1", "timezone": "Europe/Oslo"}
        ).json()
        assert changed["min_new_texts"] == shown["min_new_texts"] == 10
        assert datetime.fromisoformat(changed["next_run"]) > datetime.now(UTC)
        paused = client.put("/v1/schedule", json={"paused": True}).json()
        assert paused["next_run"] is None
        assert client.get("/v1/schedule").json() == paused
        resumed = client.put(
            "/v1/schedule", json={"paused": False, "cron": "0 3 * * *", "timezone": "UTC"}
        ).json()
        assert resumed == client.get("/v1/schedule").json()
        assert client.put("/v1/schedule", json={"cron": "never"}).status_code == 400
        assert client.get("/v1/schedule").json() == resumed


def test_a_schedule_that_fires_refreshes_who_is_due(stack: Stack) -> None:
    """Every minute, for whoever has eight new texts."""
    with stack.client() as client:
        client.post("/v1/users", json={"name": "nightly"}).raise_for_status()
        rows = [f'{{"query": "post {i}", "text": "my dear diary, day {i}"}}' for i in range(8)]
        client.post("/v1/users/nightly/history", content="\n".join(rows)).raise_for_status()
        # Fewer than the usual ten, so that eight texts are enough.
        client.put("/v1/schedule", json={"cron": "* * * * *", "min_new_texts": 8})

        def refreshed() -> bool:
            rows = client.get("/v1/users/nightly/refreshes").json()["data"]
            return bool(rows) and rows[0]["status"] in ("succeeded", "failed")

        try:
            wait_until(refreshed, 540)
        finally:
            client.put("/v1/schedule", json={"cron": "0 3 * * *", "min_new_texts": 10})
        (row,) = client.get("/v1/users/nightly/refreshes").json()["data"]
        assert row["status"] == "succeeded", row
