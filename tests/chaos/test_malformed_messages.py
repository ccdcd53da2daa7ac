"""Whatever lies in a queue of Redis: what is no doorbell costs that message and nothing else."""

import json

from redis import Redis

from tests.support.fleet import Fleet
from tests.support.malformed_messages import HARMLESS, RUN, SECRET, envelope, items
from tests.support.waiting import until

THREW = "threw a message away"


def test_what_is_no_doorbell_is_thrown_away_and_work_goes_on(fleet: Fleet) -> None:
    fleet.start_dispatcher()
    worker = fleet.start_worker()
    first = fleet.submit(reference=None)
    fleet.wait_for(first, "SUCCEEDED")
    with Redis.from_url(fleet.valkey.url) as redis:
        for number, (name, item) in enumerate(items().items(), start=1):
            redis.lpush("cpu", item)
            until(lambda number=number: fleet.log("worker").count(THREW) == number, f"{name} to be thrown away")  # type: ignore[misc]  # a default binds the loop's variable
        assert SECRET not in fleet.log("worker")
        assert "Traceback" not in fleet.log("worker")
        for message in HARMLESS.values():
            redis.lpush("cpu", json.dumps(envelope(message)))
        # What is sent to every worker at once.
        for item in items().values():
            redis.publish("/0.celery.pidbox", item)
        audit = fleet.submit(reference=None, max_tokens=16)
        fleet.wait_for(audit, "SUCCEEDED")
        until(lambda: fleet.log("worker").count(f"rung={RUN}") == len(HARMLESS), "a doorbell without a run")
        # Neither waits anywhere to be delivered again.
        until(lambda: not redis.hlen("unacked") and not redis.llen("cpu"), "no message to be left")
    assert worker.alive()
    assert "re-establish" not in fleet.log("worker")
    fleet.ended_once(runs=2, traces=2)
