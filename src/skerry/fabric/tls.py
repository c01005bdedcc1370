"""TLS by configuration: which files, and the contexts made of them.

Rules: TLS 1.2 or newer; a client always verifies the server's certificate and name; a server that is given a `ca`
demands a certificate of each client. Files are read when a context is made, not before: a configuration may be written
on another machine.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from skerry.errors import ConfigError, RefusedError


@dataclass(frozen=True, kw_only=True)
class TlsConfig:
    """PEM files. Server: cert and key; `ca` to demand client certificates. Client: `ca` that signed the server's
    certificate ("" = the system's authorities); cert and key if the server demands them."""

    cert: str = ""
    key: str = ""
    ca: str = ""

    def __post_init__(self) -> None:
        if bool(self.cert) != bool(self.key):
            raise ConfigError("tls.cert and tls.key belong together", remedy="give both or neither")

    def server_context(self) -> ssl.SSLContext:
        """For a listener. Raises ConfigError: no certificate, or a file that cannot be used."""
        if not self.cert:
            raise ConfigError("a listener with TLS needs tls.cert and tls.key", remedy="give both files")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._load(context)
        if self.ca:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client_context(self) -> ssl.SSLContext:
        """For connections to a syncer. Raises ConfigError: a file that cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if not self.ca:
            context.load_default_certs()
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        name = "tls.ca"
        try:
            if self.ca:
                context.load_verify_locations(self.ca)
            if self.cert:
                name = "tls.cert and tls.key"
                context.load_cert_chain(self.cert, self.key)
        except OSError as error:  # ssl.SSLError is one
            files = self.ca if name == "tls.ca" else f"{self.cert}, {self.key}"
            raise ConfigError(f"{name} ({files}) cannot be used: {error.strerror or error}",
                              remedy="give readable PEM files; certificate and key must match") from error  # fmt: skip


_EXPIRED, _NOT_YET, _OTHER_NAME = 10, 9, 62  # OpenSSL's X509_V_ERR_*


def certificate_error(error: ssl.SSLError, peer: str) -> RefusedError:
    """What a failed TLS handshake means to the user who connects to `peer`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = {
            _EXPIRED: "renew it on the syncer's machine",
            _NOT_YET: "check the clocks of both machines",
            _OTHER_NAME: "connect by a name that the certificate bears, or issue one for this name",
        }.get(error.verify_code, "set tls.ca to the certificate of the authority that signed it")
        return RefusedError(f"the certificate of {peer} is not accepted: {error.verify_message}",
                            code="certificate", remedy=remedy)  # fmt: skip
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if "wrong version number" in reason or "record layer failure" in reason:
        return RefusedError(f"{peer} does not speak TLS", code="certificate",
                            remedy="configure TLS on both sides or on neither")  # fmt: skip
    return RefusedError(f"the TLS handshake with {peer} failed: {reason}", code="certificate",
                        remedy="check tls.cert, tls.key and tls.ca on both sides")  # fmt: skip
