"""The job queue as the gateway sees it, with a real one."""

from dbos import DBOSClient
from refresh_workshop import Workshop
from running_stack import wait_until

from server.jobs import DRAIN_WORKFLOW, Jobs


def test_one_drain_of_an_owner_waits_at_a_time(workshop: Workshop) -> None:
    user = workshop.user("mina")
    with workshop.worker():
        pass  # makes the queue

    def drains() -> list[str]:
        client = DBOSClient(system_database_url=workshop.settings.queue_url())
        try:
            return [one.status for one in client.list_workflows(name=DRAIN_WORKFLOW)]
        finally:
            client.destroy()

    jobs = Jobs(workshop.settings.queue_url())
    for _ in range(3):
        jobs.drain(user.id, alone=True)
    assert drains() == ["ENQUEUED"]
    with workshop.worker():
        wait_until(lambda: drains() == ["SUCCESS"], 60)
    jobs.drain(user.id, alone=True)
    assert sorted(drains()) == ["ENQUEUED", "SUCCESS"]
    jobs.close()
