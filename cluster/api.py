"""A few HTTPS calls to the Kubernetes API with a client certificate.

`up` must work before kubectl or any library is there, and needs only these.
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


class ApiError(Exception):
    """The API server answered with an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Api:
    """JSON requests to one API server."""

    def __init__(self, server: str, authority: Path, certificate: Path, key: Path) -> None:
        self.server = server
        context = ssl.create_default_context(cafile=str(authority))
        context.load_cert_chain(str(certificate), str(key))
        # An empty proxy table: a proxy from the environment must not see these calls.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        timeout: float = 10,
    ) -> bytes:
        """Send one request; raise ApiError for a status of 400 or more."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.server + path, data=data, method=method)
        request.add_header("Content-Type", content_type)
        try:
            with self._opener.open(request, timeout=timeout) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            raise ApiError(error.code, error.read().decode(errors="replace")[:1000]) from error

    def get(self, path: str) -> Any:
        """Return one object or list."""
        return json.loads(self.request("GET", path))

    def exists(self, path: str) -> bool:
        """Whether an object is there."""
        try:
            self.request("GET", path)
        except ApiError as error:
            if error.code == 404:
                return False
            raise
        return True

    def create(self, path: str, body: dict[str, Any]) -> bool:
        """Create an object; False if it was there already."""
        try:
            self.request("POST", path, body)
        except ApiError as error:
            if error.code == 409:
                return False
            raise
        return True

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        """Apply a merge patch."""
        return json.loads(self.request("PATCH", path, body, content_type="application/merge-patch+json"))

    def delete(self, path: str) -> None:
        """Delete an object; one that is gone already is fine."""
        try:
            self.request("DELETE", path)
        except ApiError as error:
            if error.code != 404:
                raise

    def ready(self) -> bool:
        """Whether the API server says it is ready."""
        try:
            self.request("GET", "/readyz", timeout=2)
        except (ApiError, OSError):
            return False
        return True
