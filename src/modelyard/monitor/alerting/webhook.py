"""`WebhookSink`: each event as a signed HTTP request."""

import hashlib
import hmac
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPMessage
from typing import IO
from urllib.parse import urlsplit

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import ConfigError
from modelyard.monitor.alerting.alerts import AlertEventDict
from modelyard.monitor.alerting.sinks import DeliveryRefusedError, severity_of

DELIVERY_HEADER = "Modelyard-Delivery"
TIMESTAMP_HEADER = "Modelyard-Timestamp"
SIGNATURE_HEADER = "Modelyard-Signature"
_OWN_HEADERS = frozenset(
    {"content-type", *(h.lower() for h in (DELIVERY_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER))}
)
# "Not now" rather than "never".
_RETRIED = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


class WebhookSink:
    """Posts each event as JSON to a URL.

    `Modelyard-Delivery` holds the event's id, the same at each attempt, so that a receiver can
    drop what it has had. With a secret, `Modelyard-Signature` is `sha256=` and the hexadecimal
    HMAC-SHA256 of `Modelyard-Timestamp` (seconds since 1970), a dot and the body.

    Any answer of 200 to 299 is a delivery. Redirects are not followed, so that an event goes
    only where it was meant to; they and 400 to 499 (except 408 and 429) are final, everything
    else is tried again.

    Args:
        url: `https://` or `http://`. It may hold a token, but no user or password:
            messages name its host only.
        secret: Known to the receiver; None for no signature.
        timeout_s: Longest wait for the connection and for each part of the answer.
        headers: Sent with each request, such as `Authorization`.
        name: Of the sink.
        min_severity: `info`, `warning` or `critical`; lower ones are left out.
        clock: Tells the time for the signature.

    Raises:
        ConfigError: An argument breaks its rule.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | bytes | None = None,
        timeout_s: float = 5.0,
        headers: Mapping[str, str] | None = None,
        name: str = "webhook",
        min_severity: str = "info",
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.min_severity = severity_of(min_severity)
        self._host = _checked_host(url)
        self._url = url
        if secret is not None and not secret:
            raise ConfigError("secret must not be empty; leave it out for no signature.")
        self._secret = secret.encode() if isinstance(secret, str) else secret
        if not timeout_s > 0.0:
            raise ConfigError(f"timeout_s must be above 0 seconds, got {timeout_s}.")
        self._timeout_s = timeout_s
        self._headers = _checked_headers(headers or {})
        self._clock = clock or SystemClock()

    def deliver(self, event: AlertEventDict) -> None:
        """Post the event.

        Raises:
            DeliveryRefusedError: The receiver's answer is final.
            OSError: It could not be reached, or asks to try again.
        """
        body = json.dumps(event, allow_nan=False).encode()
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked when it is made
            self._url, data=body, headers=self._headers_of(event, body), method="POST"
        )
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            opener.open(request, timeout=self._timeout_s).close()
        except urllib.error.HTTPError as error:
            error.close()
            status = error.code
        except urllib.error.URLError as error:
            raise ConnectionError(f"{self._host} cannot be reached: {error.reason}") from error
        else:
            return
        if status in _RETRIED or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise ConnectionError(f"{self._host} answered {status}.")
        raise DeliveryRefusedError(f"{self._host} refused the event: it answered {status}.")

    def _headers_of(self, event: AlertEventDict, body: bytes) -> dict[str, str]:
        headers = {
            **self._headers,
            "Content-Type": "application/json",
            DELIVERY_HEADER: event["event_id"],
        }
        if self._secret is not None:
            timestamp = str(int(self._clock.now().timestamp()))
            signed = hmac.new(self._secret, f"{timestamp}.".encode() + body, hashlib.sha256)
            headers[TIMESTAMP_HEADER] = timestamp
            headers[SIGNATURE_HEADER] = f"sha256={signed.hexdigest()}"
        return headers


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,  # noqa: ARG002 - the library's signature
        fp: IO[bytes],  # noqa: ARG002 - as above
        code: int,  # noqa: ARG002 - as above
        msg: str,  # noqa: ARG002 - as above
        headers: HTTPMessage,  # noqa: ARG002 - as above
        newurl: str,  # noqa: ARG002 - as above
    ) -> None:
        return None


def _checked_host(url: str) -> str:
    try:
        parts = urlsplit(url)
        # The port is checked when it is read.
        is_usable = parts.scheme in {"http", "https"} and parts.port != 0
        host = parts.hostname
    except (ValueError, AttributeError, TypeError):
        is_usable, host = False, None
    if not is_usable or not host or not url.isprintable() or " " in url:
        raise ConfigError(
            "A webhook's url must be http:// or https:// with a host; got "
            f"{'text' if isinstance(url, str) else type(url).__qualname__} that is not."
        )
    if "@" in parts.netloc:
        raise ConfigError(
            "A webhook's url must not hold a user or password: they would not be sent. Give "
            "headers={'Authorization': 'Basic ...'} instead."
        )
    return host


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    for header, value in headers.items():
        is_text = isinstance(header, str) and isinstance(value, str)
        if not is_text or header.lower() in _OWN_HEADERS or not (header + value).isprintable():
            raise ConfigError(
                f"Header {header!r} cannot be set: headers are printable text, and "
                f"{', '.join(sorted(_OWN_HEADERS))} are the sink's own."
            )
    return dict(headers)
