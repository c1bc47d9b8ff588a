"""The command ``recommend``, in this process."""

from __future__ import annotations

import sys

import pytest

from trio_replica import cli, recommend_queue_size
from trio_replica.cli.recommend import recommend

WORKLOAD = ("--rate", "90", "--service-time", "0.01")


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(["recommend", *arguments])
    out, err = capfd.readouterr()
    return status, out, err


def test_the_sizes_are_on_a_line_of_their_own_before_reason_and_assumptions(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capfd, *WORKLOAD)
    assert (status, err) == (0, "")
    first, *others = out.splitlines()
    assert first == "queue_size=43, batch_size=1"
    advised = recommend_queue_size(rate=90, service_time=0.01)
    assert " ".join(others) == f"{advised.reason} {advised.assumptions}"
    assert max(map(len, others)) <= 100


@pytest.mark.deep
def test_every_option_reaches_the_advice(capfd: pytest.CaptureFixture[str]) -> None:
    store = {"service_cv": 0.5, "batch_cost": (0.02, 0.002), "callers": 3, "margin": 2, "wait_share": 0.02}
    disturbed = {"burst": 50, "burst_rate": 200, "stall": 0.1, "blob_size": 1024, "memory": 2_000_000}
    advised = recommend_queue_size(rate=60, service_time=0.01, **store, **disturbed)  # type: ignore[arg-type]
    options = {**store, **disturbed, "batch_cost": None, "blob_size": "1KiB", "memory": "2 MB"}
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]
    status, out, _ = run(capfd, "--rate=60", "--service-time=0.01", "--batch-cost", "0.02", "0.002", *given)
    assert status == 0
    assert out.startswith(f"queue_size={advised.queue_size}, batch_size={advised.batch_size}\n")
    assert " ".join(f"{advised.reason} {advised.assumptions}".split()) in " ".join(out.split())


def test_no_option_of_the_library_is_missing() -> None:
    by_keyword = recommend_queue_size.__kwdefaults__ or {}
    assert {option.name for option in recommend.params} == {"rate", "service_time", *by_keyword}


def test_help_states_the_assumptions(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capfd, "--help")
    told = " ".join(out.split())
    assert status == 0
    assert "puts arrive independently of each other, as a Poisson process." in told
    assert "It also assumes that service times are not correlated" in told
    assert "The margin is (1 + I) / (1 + cv²)" in told


def test_where_no_queue_will_do_one_line_says_what_would(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capfd, "--rate", "200", "--service-time", "0.01")
    assert (status, out) == (1, "")
    assert err == (
        "trio-replica: no queue will do: 200 puts arrive a second, and the store takes 100 at most; 95 puts a second "
        "or a service_time of 0.00474 s would do\n"
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--rate", "90"], "Missing option '--service-time'"),
        ([*WORKLOAD, "--rate", "0"], "Error: --rate must be more than 0 puts a second and finite, not 0.0"),
        ([*WORKLOAD, "--service-cv", "nan"], "Error: --service-cv must be at least 0 times the mean"),
        ([*WORKLOAD, "--batch-cost", "-1", "1"], "Error: --batch-cost[0] must be at least 0 seconds and finite"),
        ([*WORKLOAD, "--burst-rate", "9"], "Error: --burst-rate needs a burst"),
        ([*WORKLOAD, "--stall", "-1"], "Error: --stall must be at least 0 seconds"),
        ([*WORKLOAD, "--wait-share", "1"], "Error: --wait-share must be at least 1e-09 and less than 1, not 1.0"),
        ([*WORKLOAD, "--margin", "0.5"], "Error: --margin must be at least 1 times the queue"),
        ([*WORKLOAD, "--callers", "0"], "Error: Invalid value for '--callers': 0 is not in the range x>=1"),
        ([*WORKLOAD, "--memory", "0"], "'0' is not a positive number of bytes, such as 100, 64KiB or 1.5GB"),
        ([*WORKLOAD, "--memory", "9" * 400], "is not a positive number of bytes"),
        ([*WORKLOAD, "--blob-size", "64 apples"], "'64 apples' is not a positive number of bytes"),
        ([*WORKLOAD, "--blob-size", "many"], "'many' is not a positive number of bytes"),
    ],
)
def test_bad_options_are_refused(capfd: pytest.CaptureFixture[str], arguments: list[str], complaint: str) -> None:
    status, out, err = run(capfd, *arguments)
    assert (status, out) == (2, "")
    assert complaint in err


def test_without_numpy_the_extra_is_named(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("trio_replica._advice.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numpy", None)
    status, out, err = run(capfd, *WORKLOAD)
    assert (status, out) == (1, "")
    assert err == "trio-replica: recommend_queue_size needs numpy: pip install 'trio-replica[advice]'\n"
