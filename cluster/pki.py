"""Certificates and kubeconfigs, made with the openssl command.

Elliptic-curve keys are used because they are made in milliseconds; the control
plane of a test must not wait for RSA primes.
"""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path

_VALID_DAYS = "3650"


class Authority:
    """A certificate authority in a directory, with the certificates it signed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def certificate(self) -> Path:
        """The authority's own certificate."""
        return self.directory / "ca.crt"

    def create(self) -> None:
        """Make the authority and the key pair that signs service account tokens."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        _openssl(
            *("req", "-x509", "-nodes", "-days", _VALID_DAYS, "-subj", "/CN=plumbline-local"),
            *_new_key(self.directory / "ca.key"),
            *("-out", str(self.certificate)),
        )
        private, public = self.directory / "sa.key", self.directory / "sa.pub"
        _openssl(
            *("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-out", str(private)),
        )
        _openssl("pkey", "-in", str(private), "-pubout", "-out", str(public))

    def sign(self, name: str, subject: str, names: list[str] | None = None) -> tuple[Path, Path]:
        """Make a certificate for client and server use; return its file and its key's."""
        certificate, key = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        request = self.directory / f"{name}.csr"
        extensions = self.directory / f"{name}.ext"
        lines = [
            "basicConstraints=CA:FALSE",
            "keyUsage=digitalSignature",
            "extendedKeyUsage=clientAuth,serverAuth",
        ]
        if names:
            lines.append(f"subjectAltName={','.join(names)}")
        extensions.write_text("\n".join(lines) + "\n")
        _openssl("req", "-nodes", "-subj", subject, *_new_key(key), "-out", str(request))
        _openssl(
            *("x509", "-req", "-days", _VALID_DAYS, "-in", str(request)),
            *("-CA", str(self.certificate), "-CAkey", str(self.directory / "ca.key")),
            *("-CAcreateserial", "-extfile", str(extensions), "-out", str(certificate)),
        )
        request.unlink()
        extensions.unlink()
        return certificate, key

    def kubeconfig(self, name: str, subject: str, server: str, target: Path | None = None) -> Path:
        """Make a client certificate and the kubeconfig that uses it."""
        certificate, key = self.sign(name, subject)
        target = target or self.directory / f"{name}.kubeconfig"
        text = f"""\
apiVersion: v1
kind: Config
clusters:
- name: plumbline
  cluster:
    server: {server}
    certificate-authority-data: {_encoded(self.certificate)}
users:
- name: {name}
  user:
    client-certificate-data: {_encoded(certificate)}
    client-key-data: {_encoded(key)}
contexts:
- name: plumbline
  context:
    cluster: plumbline
    user: {name}
current-context: plumbline
"""
        # Never readable by others, not even between creation and chmod.
        target.unlink(missing_ok=True)
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        return target


def _new_key(file: Path) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-keyout", str(file)]


def _encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def _openssl(*arguments: str) -> None:
    result = subprocess.run(["openssl", *arguments], text=True, capture_output=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]} failed: {result.stderr.strip()}")
