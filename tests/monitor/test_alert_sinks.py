"""Sinks: the log, a file, a function, and a webhook against a real server."""

import errno
import hashlib
import hmac
import json
import logging
import os
import socket
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from modelyard._core.clock import ManualClock
from modelyard._core.errors import ConfigError
from modelyard.monitor.alerting.alerts import Severity
from modelyard.monitor.alerting.sinks import (
    CallbackSink,
    DeliveryRefusedError,
    JsonLinesSink,
    LogSink,
)
from modelyard.monitor.alerting.webhook import WebhookSink

DOCS = Path(__file__).resolve().parents[2] / "docs" / "alerts.md"


def event(number=1, *, kind="opened", severity="warning"):
    return {
        "event_id": f"event-{number}",
        "event": kind,
        "at": "2024-06-01T00:00:00+00:00",
        "model_name": "ppo",
        "alert": {
            "alert_id": "alert-1",
            "name": "error_rate",
            "severity": severity,
            "message": "error_rate is 0.2, über the threshold of 0.05.",
            "value": 0.2,
            "threshold": 0.05,
        },
    }


# The log


@pytest.mark.parametrize(
    ("kind", "severity", "level"),
    [
        ("opened", "info", logging.INFO),
        ("opened", "warning", logging.WARNING),
        ("worsened", "critical", logging.ERROR),
        ("resolved", "critical", logging.INFO),
        ("acknowledged", "warning", logging.INFO),
    ],
)
def test_the_level_of_a_line_is_the_severity(kind, severity, level, caplog):
    with caplog.at_level(logging.INFO, logger="modelyard.alerts"):
        LogSink().deliver(event(kind=kind, severity=severity))
    (record,) = caplog.records
    assert record.levelno == level
    assert record.getMessage() == (
        f"{severity} alert error_rate of ppo {kind}: "
        "error_rate is 0.2, über the threshold of 0.05."
    )


def test_a_logger_of_ones_own(caplog):
    LogSink(logging.getLogger("mine")).deliver(event())
    assert caplog.records[0].name == "mine"


# A file


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_event_is_a_line_and_the_folder_is_made(tmp_path):
    path = tmp_path / "new" / "alerts.jsonl"
    sink = JsonLinesSink(path)
    sink.deliver(event(1))
    sink.deliver(event(2))
    assert lines_of(path) == [event(1), event(2)]


def test_a_line_that_a_crash_cut_off_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "alerts.jsonl"
    JsonLinesSink(path).deliver(event(1))
    with path.open("a") as file:
        file.write('{"event_id": "eve')
    JsonLinesSink(path).deliver(event(2))
    first, torn, last = path.read_text().splitlines()
    assert json.loads(first) == event(1)
    assert torn == '{"event_id": "eve'
    assert json.loads(last) == event(2)


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "alerts.jsonl"
    sink = JsonLinesSink(path)
    sink.deliver(event(1))
    before = path.read_bytes()
    write, calls = os.write, []

    def full(descriptor, data):
        calls.append(data)
        if len(calls) == 1:
            return write(descriptor, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        sink.deliver(event(2))
    monkeypatch.undo()
    assert path.read_bytes() == before
    sink.deliver(event(2))
    assert lines_of(path) == [event(1), event(2)]


# A function


def test_a_callback_gets_the_event():
    got = []
    CallbackSink(got.append).deliver(event())
    assert got == [event()]


def test_a_callback_is_a_function():
    with pytest.raises(ConfigError, match="takes a function of one event"):
        CallbackSink("print")


@pytest.mark.parametrize(
    "make",
    [
        lambda severity: LogSink(min_severity=severity),
        lambda severity: JsonLinesSink("x", min_severity=severity),
        lambda severity: CallbackSink(print, min_severity=severity),
        lambda severity: WebhookSink("http://localhost", min_severity=severity),
    ],
)
def test_every_sink_has_a_least_severity(make):
    assert make("critical").min_severity is Severity.CRITICAL
    for wrong in ("loud", None):
        with pytest.raises(ConfigError, match="severity must be"):
            make(wrong)


# A webhook


class Receiver:
    """A server on this machine that answers what it is told to and keeps what it got."""

    def __init__(self):
        self.answers, self.got = [], []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.path, dict(self.headers), body))
                status = receiver.answers.pop(0) if receiver.answers else 200
                self.send_response(status)
                if status in {301, 302, 307}:
                    self.send_header("Location", receiver.url + "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self):
                receiver.got.append((self.path, dict(self.headers), b""))
                self.send_error(405)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = Receiver()
    yield running
    running.close()


def test_a_webhook_posts_the_event_as_json(receiver):
    sink = WebhookSink(receiver.url + "/hook?a=b", headers={"Authorization": "Bearer x"})
    sink.deliver(event())
    ((path, headers, body),) = receiver.got
    assert path == "/hook?a=b"
    assert json.loads(body) == event()
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Bearer x"
    assert headers["Modelyard-Delivery"] == "event-1"
    assert "Modelyard-Signature" not in headers


def test_a_signature_is_over_timestamp_and_body(receiver):
    clock = ManualClock(datetime(2024, 6, 1, tzinfo=UTC))
    WebhookSink(receiver.url, secret=b"known to both", clock=clock).deliver(event())
    ((_, headers, body),) = receiver.got
    assert headers["Modelyard-Timestamp"] == "1717200000"
    expected = hmac.new(b"known to both", b"1717200000." + body, hashlib.sha256).hexdigest()
    assert headers["Modelyard-Signature"] == f"sha256={expected}"


def test_the_receivers_check_in_the_docs_takes_ours_and_nothing_else(receiver):
    text = DOCS.read_text(encoding="utf-8")
    block = text[: text.index("def is_genuine")].rpartition("```python\n")[2]
    block += text[text.index("def is_genuine") :].partition("```")[0]
    namespace = {}
    exec(block, namespace)  # noqa: S102 - the project's own page
    is_genuine = namespace["is_genuine"]
    clock = ManualClock(datetime(2024, 6, 1, tzinfo=UTC))
    WebhookSink(receiver.url, secret=b"secret", clock=clock).deliver(event())
    ((_, headers, body),) = receiver.got
    now_s = clock.now().timestamp()
    assert is_genuine(headers, body, b"secret", now_s)
    assert not is_genuine(headers, body, b"other", now_s)
    assert not is_genuine(headers, body + b" ", b"secret", now_s)
    assert not is_genuine(headers, body, b"secret", now_s + 301)
    later = {**headers, "Modelyard-Timestamp": str(int(now_s) + 1)}
    assert not is_genuine(later, body, b"secret", now_s)


@pytest.mark.parametrize("status", [200, 201, 204])
def test_any_answer_of_two_hundred_is_a_delivery(status, receiver):
    receiver.answers = [status]
    WebhookSink(receiver.url).deliver(event())


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_an_answer_of_not_now_is_tried_again(status, receiver):
    receiver.answers = [status]
    with pytest.raises(ConnectionError, match=f"answered {status}"):
        WebhookSink(receiver.url).deliver(event())


@pytest.mark.parametrize("status", [400, 401, 404, 410])
def test_an_answer_of_never_is_final(status, receiver):
    receiver.answers = [status]
    with pytest.raises(DeliveryRefusedError, match=f"it answered {status}"):
        WebhookSink(receiver.url).deliver(event())


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_is_not_followed(status, receiver):
    receiver.answers = [status]
    with pytest.raises(DeliveryRefusedError):
        WebhookSink(receiver.url).deliver(event())
    assert [path for path, _, _ in receiver.got] == ["/"]


def test_a_receiver_that_cannot_be_reached_is_tried_again_and_the_token_is_not_told():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(ConnectionError, match=r"127\.0\.0\.1 cannot be reached") as caught:
            WebhookSink(f"http://127.0.0.1:{port}/token-123").deliver(event())
    assert "token-123" not in str(caught.value)


def test_a_receiver_that_says_nothing_is_given_up_after_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sink = WebhookSink(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.05)
        with pytest.raises(OSError, match="timed out"):
            sink.deliver(event())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "file:///etc/passwd",
        "ftp://example.com",
        "http://",
        "https:///path",
        "http://a b/",
        "http://host\n/",
        "http://host:99999/",
        "http://[::1",
        None,
        b"http://host",
    ],
)
def test_a_url_that_is_no_web_address_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigError, match=r"must be http:// or https:// with a host"):
        WebhookSink(url)


@pytest.mark.parametrize("url", ["http://user:pass@host/x", "https://user@host", "http://@host"])
def test_a_url_with_a_user_is_refused_without_a_word_of_it_and_headers_are_advised(url):
    with pytest.raises(ConfigError, match="headers=") as refused:
        WebhookSink(url)
    assert "pass@" not in str(refused.value)
    WebhookSink("http://host/path@2?user=a@b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"secret": ""}, "secret must not be empty"),
        ({"timeout_s": 0}, "timeout_s must be above 0"),
        ({"headers": {"modelyard-signature": "x"}}, "are the sink's own"),
        ({"headers": {"X": "a\r\nY: b"}}, "headers are printable text"),
        ({"headers": {"X": 1}}, "headers are printable text"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        WebhookSink("https://example.com/hook", **options)
