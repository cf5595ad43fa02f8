"""Run by test_cluster.py in a process of its own: a Ray cluster with a token and TLS, and strangers at its door.

    python tests/hcq/ray_secure.py            the cluster
    python tests/hcq/ray_secure.py stranger   a program that opens a card there, if it may
"""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from two_cards import compiled

import hcq

PATIENCE = 45               # seconds for a stranger to be refused


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def authority(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """A certificate authority, and a certificate for 127.0.0.1 by it: (certificate, key, the authority's)."""
    ca, ca_key, key, request, certificate = (folder / f"{name}{end}" for end in (
        "-ca.crt", "-ca.key", ".key", ".csr", ".crt"))
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name} authority",
            "-keyout", str(ca_key), "-out", str(ca))
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(request))
    extensions = folder / f"{name}.ext"
    extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n")
    openssl("x509", "-req", "-in", str(request), "-CA", str(ca), "-CAkey", str(ca_key), "-CAcreateserial", "-days", "2",
            "-extfile", str(extensions), "-out", str(certificate))
    return certificate, key, ca


def tls(certificate: Path, key: Path, ca: Path) -> dict[str, str]:
    """As docs/hcq.md says."""
    return {"RAY_USE_TLS": "1", "RAY_TLS_SERVER_CERT": str(certificate), "RAY_TLS_SERVER_KEY": str(key),
            "RAY_TLS_CA_CERT": str(ca)}


def stranger(address: str, settings: dict[str, str]) -> str:
    """What a program with these settings says that opens a card."""
    kept = {key: value for key, value in os.environ.items()
            if not key.startswith(("RAY_TLS", "RAY_USE_TLS", "RAY_AUTH", "RAY_ADDRESS"))}
    environment = {**kept, **settings, "RAY_ADDRESS": address, "HCQ_CLUSTER_TIMEOUT": "20",
                   "RAY_gcs_rpc_server_connect_timeout_s": "5", "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
                   "RAY_NUM_REDIS_GET_RETRIES": "1"}
    try:
        done = subprocess.run([sys.executable, __file__, "stranger"], env=environment, capture_output=True, text=True,
                              timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return "nothing"
    return done.stdout + done.stderr


def handshake(address: str, ca: Path, pair: tuple[Path, Path] | None) -> bytes:
    """The server's certificate, when the two sides agree and the server talks. :raises OSError: they do not."""
    context = ssl.create_default_context(cafile=str(ca))
    context.set_alpn_protocols(["h2"])
    if pair is not None:
        context.load_cert_chain(*map(str, pair))
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as plain, \
            context.wrap_socket(plain, server_hostname=host) as wrapped:
        wrapped.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        if not wrapped.recv(9):
            raise ConnectionError("closed without a word")
        found = wrapped.getpeercert(binary_form=True)
        assert found is not None
        return found


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="hcq-secure-") as name:
        folder = Path(name)
        ours, others = authority(folder, "ours"), authority(folder, "others")
        (folder / "token").write_text(secrets.token_hex(32))
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
        os.environ.update({**token, **tls(*ours)})          # before Ray is imported; the nodes inherit it
        import ray
        from ray.cluster_utils import Cluster
        small = {"object_store_memory": 100 << 20, "include_dashboard": False, "node_ip_address": "127.0.0.1"}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"amd_gpu": 2}, **small})
        os.environ["RAY_ADDRESS"] = cluster.address
        try:
            check(cluster.address, folder, ours, others, token)
        finally:
            ray.shutdown()
            cluster.shutdown()
    print("all is well")


def check(address: str, folder: Path, ours: tuple[Path, Path, Path], others: tuple[Path, Path, Path],
          token: dict[str, str]) -> None:
    far = hcq.open("AM@ray")
    x = np.arange(1 << 16, dtype=np.uint32)
    a = far.alloc(x.nbytes).copyin(x)                       # large enough to go through the object store
    add = far.program(compiled(), "add")
    add(a, a, np.uint32(5), grid=len(x) // 64, block=64)
    assert np.array_equal(a.copyout(np.empty_like(x)), x + 5)

    certificate, key, ca = ours
    served = handshake(address, ca, (certificate, key))
    assert served == ssl.PEM_cert_to_DER_cert(certificate.read_text())
    for trusted, pair in ((ca, None), (ca, others[:2]), (others[2], ours[:2])):
        try:
            handshake(address, trusted, pair)
            raise AssertionError(f"{trusted} with {pair} was let in")
        except OSError as error:
            print(type(error).__name__, error)

    assert "the card is ours" in stranger(address, {**token, **tls(*ours)})
    (folder / "wrong").write_text(secrets.token_hex(32))
    for what, settings in {"another token": {**token, **tls(*ours), "RAY_AUTH_TOKEN_PATH": str(folder / "wrong")},
                           "no token": tls(*ours), "no TLS": token,
                           "another authority": {**token, **tls(*others)}}.items():
        said = stranger(address, settings)
        print(f"{what}: {said[-600:]}")
        assert "the card is ours" not in said, what
        if "token" in what:
            assert "ClusterError: no Ray cluster at" in said and "RAY_AUTH_MODE" in said, said[-3000:]
    far.close()


if __name__ == "__main__":
    if sys.argv[1:] == ["stranger"]:
        hcq.open("AM@ray").close()
        print("the card is ours")
    else:
        main()
