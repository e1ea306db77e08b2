"""How many requests commands send to S3, so that none of them grows with what it need not read."""

import pytest
from botocore.awsrequest import AWSPreparedRequest
from clusters.proxy import Proxy
from clusters.s3 import S3
from s3fs import S3FileSystem

from getiaction_launch.errors import RunNotFoundError
from getiaction_launch.launch.finding.find import find_runs
from getiaction_launch.node.opening import begin
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.attempt import Attempt, Ending
from getiaction_launch.run.reading.find import find_run
from getiaction_launch.run.restart import allow_another, may_begin, reopen
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.storage.entries import read_entries
from getiaction_launch.storage.objects import read_object
from getiaction_launch.storage.paths import children, file_system, open_path


@pytest.fixture
def root(_moto: S3, recorder: Proxy) -> str:  # noqa: ARG001 - clients reach the server through it
    """A root on S3 that no other test uses."""
    return f"{_moto.make_bucket()}/experiments"


def submit(root: str, name: str, versions: int) -> list[Run]:
    """Runs that were submitted."""
    runs = [Run.at(f"{root}/{name}/version_{version}") for version in range(versions)]
    for run in runs:
        run.write("plan", {"name": name})
    return runs


def methods(requests: list[str]) -> list[str]:
    """The methods of requests."""
    return [request.partition(" ")[0] for request in requests]


def test_a_record_is_read_in_one_request_and_so_is_a_folder(root, sent):
    """Whether it is there or not."""
    (run,) = submit(root, "act", 1)
    assert methods(sent(run.read, "plan")) == ["GET"]
    assert methods(sent(run.read, "job")) == ["GET"]
    for directory in (run.launch_directory, open_path(f"{root}/none")):
        assert methods(sent(children, directory)) == ["LIST"]
        assert methods(sent(read_entries, directory)) == ["LIST"]


def test_a_record_is_read_with_an_older_s3fs():
    """Which knows nothing of reading an object in parts."""

    class Older(S3FileSystem):
        async def _cat_file(self, path, version_id=None, start=None, end=None):
            return f"{path} {version_id} {start} {end}".encode()

    assert read_object(Older(anon=True), "bucket/key") == b"bucket/key None None None"


def test_requests_name_the_launcher_and_its_client_alone(root):
    """The client's own name has 15 parts, and is put together for each request."""
    place, names = open_path(root), []
    fs, _ = file_system(place)
    children(place)  # makes the client

    def note(request: AWSPreparedRequest, **_: object) -> None:
        names.append(str(request.headers["User-Agent"]))

    fs.s3.meta.events.register("before-send.s3", note)
    children(place)
    (name,) = names
    assert "getiaction-launch" in name
    assert len(name.split()) <= 2


def test_hidden_names_are_not_listed(root):
    """As in a directory: the copies of code beside the runs are none."""
    submit(root, "act", 1)
    (open_path(root) / ".code/copy.tar.gz").write_text("code")
    assert [entry.name for entry in read_entries(open_path(root))] == ["act"]


def test_a_long_list_is_complete(root, sent, monkeypatch):
    """It comes in pages."""
    (run,) = submit(root, "act", 1)
    for name in ("a", "b", "c"):
        run.write(name, {})
    fs = run.directory.fs
    ask = fs.call_s3
    monkeypatch.setattr(fs, "call_s3", lambda method, **words: ask(method, **words, MaxKeys=2))
    found: list[str] = []
    requests = sent(lambda: found.extend(p.name for p in children(run.launch_directory)))
    assert methods(requests) == ["LIST", "LIST"]
    assert found == ["a.json", "b.json", "c.json", "plan.json"]


def test_the_last_run_is_found_whatever_the_number_of_versions(root, sent):
    """A list of the names, and of each a list of its versions and a look at the last one."""
    submit(root, "act", 2)
    submit(root, "pusht", 3)
    for _ in range(2):
        requests = sent(find_run, "@last", root)
        assert sorted(methods(requests)) == ["HEAD", "HEAD", "LIST", "LIST", "LIST"]
        submit(root, "act", 12)
    Run.at(f"{root}/act/version_12").write("job", {})  # claimed, and not submitted
    assert find_run("@last", root).name == "act/version_11"
    with pytest.raises(RunNotFoundError, match="there are no runs under"):
        find_run("@last", f"{root}/none")


@pytest.mark.parametrize(
    ("named", "fix"),
    [
        ("act/version_99", "The latest versions there: act/version_11, act/version_10"),
        ("atc/version_0", "Did you mean 'act'?"),
        ("atc", "Did you mean 'act'?"),
    ],
)
def test_a_mistyped_name_costs_a_few_requests(root, sent, named, fix):
    """And the error says which there are."""
    submit(root, "act", 12)

    def find() -> None:
        with pytest.raises(RunNotFoundError, match="no such run") as caught:
            find_runs([named], [root])
        assert caught.value.fix.startswith(fix)

    assert len(sent(find)) <= (4 if "/" in named else 3)


def test_a_point_of_a_sweep_is_claimed_in_two_requests(root, sent):
    """It is created and read back; only for the first one, the taken versions are listed."""
    Run.claim(root, "act")
    run = Run.claim(root, "act")
    assert run.name == "act/version_1"
    claimed: list[Run] = [run]

    def claim() -> None:
        claimed.append(Run.claim(root, "act", claimed[-1]))

    assert [methods(sent(claim)) for _ in range(3)] == [["PUT", "GET"]] * 3
    assert claimed[-1].name == "act/version_4"
    assert Run.claim(root, "act", run).name == "act/version_5"  # behind those of somebody else
    assert Run.claim(root, "pusht", run).name == "pusht/version_0"


def test_the_points_of_a_sweep_are_found_below_its_name(root, sent):
    """Only their plans are read; those of a sweep without a name may have any name."""
    for number, run in enumerate(submit(root, "act", 3)):
        group = "act-1a2b3c4d" if number else "sweep-1a2b3c4d"
        run.write("plan", {"sweep": {"group": group, "values": {}}})
    submit(root, "pusht", 9)
    found: list[Run] = []
    requests = sent(lambda: found.extend(find_runs(["act-1a2b3c4d"], [root])))
    assert [run.name for run in found] == ["act/version_1", "act/version_2"]
    # First, it was looked for as a run, and which ones there are instead.
    assert methods(requests) == ["GET", "LIST", "LIST", "LIST", "GET", "GET", "GET"]
    assert [run.name for run in find_runs(["sweep-1a2b3c4d"], [root])] == ["act/version_0"]


def test_an_attempt_costs_as_much_after_many_others(root, sent, tmp_path, monkeypatch):
    """To begin, join, judge and reopen it: a run may be preempted a hundred times."""
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(tmp_path / "staging"))
    plan = Plan("act", root, [], ["t.py"], Topology(2, 1, 0), "/")
    run = Run.at(f"{root}/act/version_0")
    run.write("plan", plan.to_json())
    preempted = Ending(JobState.INTERRUPTED, Cause.PREEMPTION, "preempted")

    def train(key: str) -> None:
        assert may_begin(run)
        attempt = begin(run, key, ("host", 1), lambda: False)
        assert Attempt.join(run, key, 30).number == attempt.number
        attempt.end(allow_another(run, preempted))
        assert reopen(run).number == attempt.number

    counts = [len(sent(train, f"key {number}")) for number in range(14)]
    assert counts[6:] == [counts[6]] * 8
