"""Run by test_cluster.py in a process of its own: a Ray cluster on this machine, and a node that dies."""

from __future__ import annotations

import os
import re
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import ray
from llvmlite import binding
from ray.cluster_utils import Cluster
from two_cards import compiled

import hcq


def listeners() -> set[str]:
    """Addresses that processes of ours listen on (Linux: /proc/net/tcp)."""
    found = set()
    mine = {os.readlink(f"/proc/{process}/fd/{fd}") for process in _family() for fd in _fds(process)}
    for table, width in (("/proc/net/tcp", 8), ("/proc/net/tcp6", 32)):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in mine:
                raw = bytes.fromhex(fields[1][:width])
                words = b"".join(raw[at:at + 4][::-1] for at in range(0, len(raw), 4))
                found.add(socket.inet_ntop(socket.AF_INET if width == 8 else socket.AF_INET6, words))
    return found


def _fds(process: int) -> list[str]:
    found = []
    try:
        for fd in os.listdir(f"/proc/{process}/fd"):
            os.readlink(f"/proc/{process}/fd/{fd}")
            found.append(fd)
    except OSError:
        pass
    return found


def _family() -> list[int]:
    """This process and all that it started, and what those started."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    family = [os.getpid()]
    for process in family:
        family += [child for child, parent in parents.items() if parent == process]
    return family


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="hcq-store-"))
    os.environ["HCQ_STORE"] = str(folder)               # the nodes inherit it
    weights = np.random.default_rng(3).integers(0, 256, 1 << 20, np.uint8)
    digest = blake3.blake3(weights.data).hexdigest()
    weights.tofile(folder / digest)
    small = {"object_store_memory": 100 << 20, "include_dashboard": False, "node_ip_address": "127.0.0.1"}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **small})
    nodes = [cluster.add_node(num_cpus=1, resources={"amd_gpu": 1}, **small) for _ in range(2)]
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        check(nodes, cluster, weights, digest)
    finally:
        ray.shutdown()
        cluster.shutdown()
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    print("all is well")


def check(nodes: list[Any], cluster: Cluster, weights: np.ndarray, digest: str) -> None:
    one, other = hcq.open("AM@ray"), hcq.open("AM:1@ray")
    print(one, other)
    assert hcq.open("AM:0@ray") is one and one.properties.arch == "gfx1100"
    places = {device._transport.about["process"] for device in (one, other)}      # type: ignore[attr-defined]
    assert len(places) == 2 and os.getpid() not in places
    loopback = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert (found := listeners()) and found <= loopback, found

    x = np.arange(1 << 16, dtype=np.uint32)
    buffers = {}
    for device in (one, other):
        add = device.program(compiled(), "add")
        a = buffers[device] = device.alloc(x.nbytes).copyin(x)
        for k in range(3):
            add(a, a, np.uint32(k), grid=len(x) // 64, block=64)
        with device.graph() as graph:
            add(a, a, np.uint32(10), grid=len(x) // 64, block=64)
        graph.replay()
        assert np.array_equal(a.copyout(np.empty_like(x)), x + 13)
        assert np.array_equal(device.load(blake3=digest).copyout(), weights)
    there = other.alloc(x.nbytes).copy_from(buffers[one])
    assert np.array_equal(there.copyout(np.empty_like(x)), x + 13)

    os.environ["HCQ_CLUSTER_TIMEOUT"] = "2"
    try:
        hcq.open("AM:2@ray")
        raise AssertionError("a third card was had")
    except hcq.ClusterError as error:
        print(error)
        assert "no card was to be had within 2 s: 2 amd_gpu in the cluster, 0 free" in str(error)
    os.environ["HCQ_CLUSTER_TIMEOUT"] = "60"

    victim = other._transport.about                     # type: ignore[attr-defined]
    dying = next(node for node in nodes if node.node_id == victim["node"])
    cluster.remove_node(dying, allow_graceful=False)    # SIGKILL, in the middle of what follows
    errors = []
    deadline = time.monotonic() + 60
    while not errors and time.monotonic() < deadline:
        try:
            buffers[other].fill(1)
            buffers[other].copyout()
        except hcq.NodeLostError as error:
            errors.append(error)
    print(errors)
    assert len(errors) == 1 and f"process {victim['process']} is lost" in str(errors[0])
    try:
        other.synchronize()
        raise AssertionError("a dead device synchronized")
    except hcq.NodeLostError as error:
        assert error is errors[0]
    assert np.array_equal(buffers[one].copyout(np.empty_like(x)), x + 13)      # the other one does not mind

    cluster.add_node(num_cpus=1, resources={"amd_gpu": 1}, object_store_memory=100 << 20, include_dashboard=False,
                     node_ip_address="127.0.0.1")
    again = hcq.open("AM:1@ray")                        # the name is free, and a card is there again
    assert again is not other
    assert np.array_equal(again.alloc(x.nbytes).copyin(x).copyout(np.empty_like(x)), x)
    again.close()
    one.close()
    the_pages_block()
    deadline = time.monotonic() + 30
    while ray.available_resources().get("amd_gpu", 0) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray.available_resources().get("amd_gpu", 0) == 2             # what was held is free


def the_pages_block() -> None:
    """The cluster's part of docs/hcq.md, with what the page has made before it."""
    page = (Path(__file__).parents[2] / "docs" / "hcq.md").read_text(encoding="utf-8")
    block, = re.findall(r"^```python cluster\n(.*?)^```", page, re.S | re.M)
    kernel, = re.findall(r'^IR = """\n(.*?)^"""', page, re.S | re.M)
    machine = binding.Target.from_triple("amdgcn-amd-amdhsa").create_target_machine(cpu="gfx1100", opt=2)
    names = {"hcq": hcq, "np": np, "x": np.arange(1024, dtype=np.float32), "IR": kernel, "llvm": binding,
             "machine": machine}
    exec(compile(block, "docs/hcq.md", "exec"), names)


if __name__ == "__main__":
    main()
