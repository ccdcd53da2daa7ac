"""What the dispatcher tells Prometheus about faults while they last."""

import urllib.request
from concurrent.futures import ThreadPoolExecutor

from devstack.processes import free_port
from tests.support.fleet import Fleet
from tests.support.waiting import until


def test_metrics_show_a_lost_worker_a_dead_broker_and_the_end_of_the_work(fleet: Fleet) -> None:
    port = free_port()
    fleet.hold()
    fleet.start("dispatcher", "-m", "worker.dispatcher", SPINAL_METRICS_PORT=str(port))
    worker = fleet.start_worker("first")

    def metrics() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    audit = fleet.submit(reference=None)
    fleet.wait_for_call()
    assert metrics()['spinal_runs{queue="cpu",state="RUNNING"}'] == 1
    worker.kill()
    until(lambda: metrics()["spinal_leases_expired_total"] == 1, "the lost lease to be counted")
    fleet.valkey.kill()
    fleet.go_on()
    until(lambda: metrics()["spinal_publish_errors_total"] >= 1, "the dead broker to be counted")
    assert metrics()['spinal_oldest_due_run_seconds{queue="cpu"}'] > 0
    fleet.valkey.start()
    fleet.start_worker("second")
    fleet.wait_for(audit, "SUCCEEDED")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: metrics(), range(8)))[-1]
    assert found['spinal_attempts_total{kind="trace",outcome="lost"}'] == 1
    assert found['spinal_attempts_total{kind="trace",outcome="succeeded"}'] == 1
    assert found['spinal_attempt_seconds_count{kind="trace",outcome="succeeded"}'] == 1
    assert found["spinal_ring_lag_seconds_count"] >= 1
    assert found['spinal_zombie_writes_refused_total{write="end"}'] == 0
    assert found["spinal_database_up"] == 1
    broken = {name: value for name, value in found.items() if name.startswith("spinal_invariant_violations")}
    assert broken, "the inspection at the dispatcher's start"
    assert not any(broken.values())
