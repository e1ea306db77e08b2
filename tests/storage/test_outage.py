"""Storage that fails or refuses: every verb quotes it, and none takes a run for missing."""

import http.server
import threading
from collections.abc import Iterator

import pytest
from s3fs import S3FileSystem

from getiaction_launch.cli.main import main
from getiaction_launch.run.checkpoint import newest
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children, kind_of

RUN = "s3://bucket/experiments/act/version_0"
VERBS = {
    "status": ["status", RUN],
    "status --json": ["status", "--json", RUN],
    "logs": ["logs", RUN],
    "why": ["why", RUN],
    "cancel": ["cancel", RUN],
    "resume": ["resume", RUN],
    "pull": ["pull", RUN],
    "pull --checkpoint": ["pull", "--checkpoint", "newest", RUN],
    "ls": ["ls", "s3://bucket/experiments"],
    "by name": ["status", "--root", "s3://bucket/experiments", "act/version_0"],
    "@last": ["status", "--root", "s3://bucket/experiments", "@last"],
}
REFUSALS = {
    "ExpiredToken": (400, "The provided token has expired"),
    "AccessDenied": (403, "Access Denied"),
    "RequestTimeTooSkewed": (403, "The difference between the request time and the current time"),
    "AuthorizationHeaderMalformed": (400, "the region 'us-east-1' is wrong; expecting 'eu-west-1'"),
    "NoSuchBucket": (404, "The specified bucket does not exist"),
}


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers each request as S3 does that refuses it: to HEAD with a status alone."""

    code = ""

    def answer(self) -> None:
        """Refuse one request."""
        status, words = REFUSALS[self.code]
        body = f"<Error><Code>{self.code}</Code><Message>{words}</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def __getattr__(self, name: str) -> object:
        """The base class asks for a method for each of HTTP's."""
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint(s3, monkeypatch) -> Iterator[str]:
    """A server that refuses everything."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        S3FileSystem.clear_instance_cache()
        yield s3.endpoint
        server.shutdown()


@pytest.mark.parametrize("s3", ["moto"], indirect=True)
@pytest.mark.parametrize("code", REFUSALS)
def test_every_verb_quotes_a_storage_that_refuses(endpoint, code, monkeypatch, capsys, tmp_path):
    """Exit 5 with its own words; never that there is no such run, and never a traceback."""
    del endpoint
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Refusing, "code", code)
    wrong = {}
    for name, words in VERBS.items():
        status = main(words)
        said = "".join(capsys.readouterr())
        is_quoted = code in said or REFUSALS[code][1] in said
        if status != 5 or not is_quoted or "no such run" in said or "Traceback" in said:
            wrong[name] = (status, said)
    assert wrong == {}


@pytest.mark.parametrize("s3", ["moto"], indirect=True)
@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://no-such-host.invalid"])
def test_every_verb_names_an_endpoint_that_is_not_there(s3, url, monkeypatch, capsys, tmp_path):
    """The same if nothing listens, or the name of the server is not known."""
    del s3
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    S3FileSystem.clear_instance_cache()
    for name in ("status", "ls", "pull", "by name"):
        assert main(VERBS[name]) == 5, name
        assert url.removeprefix("http://") in capsys.readouterr().err


@pytest.mark.parametrize("s3", ["moto"], indirect=True)
@pytest.mark.parametrize("code", ["AccessDenied", "NoSuchBucket"])
def test_a_refusal_is_not_taken_for_a_missing_file(endpoint, code, monkeypatch):
    """Otherwise a run would start again from its beginning."""
    del endpoint
    monkeypatch.setattr(Refusing, "code", code)
    run = Run.at(RUN)
    for look in (
        lambda: newest(run),
        lambda: children(run.directory),
        lambda: kind_of(run.directory),
        lambda: run.read("plan"),
    ):
        with pytest.raises(OSError, match=r"s3://bucket"):
            look()


@pytest.mark.parametrize("s3", ["moto", "ceph"], indirect=True)
def test_a_bucket_that_was_deleted_is_named(s3, capsys):
    """A real server's answer."""
    del s3
    for name in ("status", "ls"):
        assert main([word.replace("bucket", "no-such-b") for word in VERBS[name]]) == 5
        assert "NoSuchBucket" in capsys.readouterr().err
