"""AMD's and Intel's services on a local port, which answer as those do, and misbehave as told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, urlsplit

from cryptography.hazmat.primitives.serialization import Encoding

from sevfork.errors import HostCannot
from sevfork.verifier.http import Answer
from sevfork.verifier.provisioning import INTEL_ROOT_LIST_URL
from tests.support.fake_amd import Part, authority, revocation_list
from tests.support.fake_intel import FakeIntel


@dataclass(frozen=True)
class Page:
    """One answer. ``missing`` bytes of it never come; it comes in ``pieces`` a moment apart."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    missing: int = 0
    pieces: int = 1
    pause_s: float = 0.0


@dataclass
class VendorServices:
    """``pages`` by path without its query; ``first`` answers come before them, whatever is asked.

    ``asked`` are the paths with their queries, in order.
    """

    url: str
    pages: dict[str, Page] = field(default_factory=dict)
    first: list[Page] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> Page:
        self.asked.append(path)
        if self.first:
            return self.first.pop(0)
        return self.pages.get(urlsplit(path).path, Page(b"", 404))

    def publish(self, part: Part | FakeIntel) -> None:
        self.pages |= amd_pages(part) if isinstance(part, Part) else intel_pages(part)


def amd_pages(part: Part) -> dict[str, Page]:
    product, table = part.product, part.certificates()
    ask = authority(f"SEV-{product}", f"ARK-{product}", "ARK")
    ark = authority(f"ARK-{product}", None, "ARK")
    chip = part.own_chip_id[: 8 if product == "Turin" else 64].hex()
    return {
        f"/vcek/v1/{product}/{chip}": Page(table.vcek),
        f"/vcek/v1/{product}/cert_chain": Page(
            ask.public_bytes(Encoding.PEM) + ark.public_bytes(Encoding.PEM)
        ),
        f"/vcek/v1/{product}/crl": Page(part.crl or revocation_list(product)),
    }


def intel_pages(intel: FakeIntel) -> dict[str, Page]:
    """As a PCCS has them: lists in hexadecimal, the root's among them."""
    collateral = intel.collateral()
    tcb, qe = collateral.tcb_info, collateral.qe_identity

    def signed(name: str, text: bytes, signature: bytes, header: str, chain: bytes) -> Page:
        body = b'{"%s":%s,"signature":"%s"}' % (name.encode(), text, signature.hex().encode())
        return Page(body, headers={header: quote(chain)})

    return {
        "/tdx/certification/v4/tcb": signed(
            "tcbInfo", tcb.text, tcb.signature, "TCB-Info-Issuer-Chain", tcb.issuer_chain
        ),
        "/tdx/certification/v4/qe/identity": signed(
            "enclaveIdentity", qe.text, qe.signature,
            "SGX-Enclave-Identity-Issuer-Chain", qe.issuer_chain,
        ),
        "/sgx/certification/v4/pckcrl": Page(collateral.pck_crl.hex().encode()),
        "/sgx/certification/v4/rootcacrl": Page(collateral.root_ca_crl.hex().encode()),
    }  # fmt: skip


@dataclass
class Web:
    """A fetcher that has these pages, at whatever host they are asked for; no socket."""

    pages: Mapping[str, Page]
    asked: list[str] = field(default_factory=list)
    down: bool = False

    def __call__(self, url: str, *, timeout_s: float) -> Answer:
        self.asked.append(url)
        if self.down:
            raise HostCannot(f"'{url}' cannot be got: no route")
        path = urlsplit(url).path
        if path == urlsplit(INTEL_ROOT_LIST_URL).path:
            path = "/sgx/certification/v4/rootcacrl"
        page = self.pages.get(path, Page(b"", 404))
        headers = {name.lower(): value for name, value in page.headers.items()}
        return Answer(page.status, page.body, headers=headers)


@contextmanager
def running() -> Iterator[VendorServices]:
    """Served on the loopback interface until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = services.answer(self.path)
            self.send_response(page.status)
            for name, value in page.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(page.body)))
            self.end_headers()
            self._send(page)

        def _send(self, page: Page) -> None:
            body = page.body[: len(page.body) - page.missing]
            size = -(-len(body) // page.pieces) or 1
            for start in range(0, len(body), size):
                try:
                    self.wfile.write(body[start : start + size])
                except OSError:
                    return  # the client has had enough
                time.sleep(page.pause_s)

        def log_message(self, *_: object) -> None:
            """Tests say what was asked."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    services = VendorServices(f"http://127.0.0.1:{server.server_port}/")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield services
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
