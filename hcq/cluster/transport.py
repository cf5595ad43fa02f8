"""Batches over Ray: an actor with one card, and what its death means."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from hcq.cluster.worker import Outcome, Worker
from hcq.errors import ClusterError, NodeLostError

__all__ = ["RESOURCE", "RayTransport"]

RESOURCE = "amd_gpu"
ANSWER = 3600.0         # seconds that a batch may take before the far side is given up


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")       # Ray would report to its makers otherwise
    try:
        import ray
    except ImportError as error:
        raise ClusterError("far devices need Ray: pip install amdrv[cluster], here and on every machine of the "
                           "cluster") from error
    return ray


class _FarWorker(Worker):
    def describe(self) -> dict[str, Any]:
        import ray
        return {**super().describe(), "node": ray.get_runtime_context().get_node_id()}


class RayTransport:
    """One actor. :raises ClusterError: no cluster, or no card free in it within ``timeout`` seconds."""

    def __init__(self, device: str, timeout: float) -> None:
        self._ray: Any = _ray()
        ray = self._ray
        if not ray.is_initialized():
            address = os.environ.get("RAY_ADDRESS") or "auto"
            try:
                ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            except Exception as error:
                raise ClusterError(f"no Ray cluster at {address!r}: {error}. Start one with: ray start --head "
                                   f"--resources='{{\"{RESOURCE}\": 1}}', or name it in RAY_ADDRESS. One with a token "
                                   "or TLS asks for the same settings here: RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH, "
                                   "RAY_USE_TLS, RAY_TLS_*") from error
        cards = ray.cluster_resources().get(RESOURCE, 0)
        if not cards:
            raise ClusterError(f"no machine of the Ray cluster offers {RESOURCE}; start its nodes with "
                               f"--resources='{{\"{RESOURCE}\": N}}', N being their number of cards")
        actor = ray.remote(num_cpus=0, resources={RESOURCE: 1}, max_restarts=0, max_task_retries=0)(_FarWorker)
        self._actor = actor.remote(device)
        try:
            self.about: dict[str, Any] = ray.get(self._actor.describe.remote(), timeout=timeout)
        except ray.exceptions.GetTimeoutError as error:
            free = ray.available_resources().get(RESOURCE, 0)
            self.close()
            raise ClusterError(f"no card was to be had within {timeout:g} s: {cards:g} {RESOURCE} in the cluster, "
                               f"{free:g} free; close a device, add a node, or wait longer "
                               "(HCQ_CLUSTER_TIMEOUT)") from error
        except ray.exceptions.RayActorError as error:
            raise ClusterError(f"the far side could not open {device}: {_cause(error)}") from error
        self.where = f"{self.about['host']}, process {self.about['process']}"

    def put(self, array: np.ndarray) -> Any:
        return self._ray.put(array)

    def send(self, commands: Sequence[tuple[Any, ...]], arrays: Sequence[Any]) -> Any:
        try:
            return self._actor.run.remote(list(commands), *arrays)
        except self._ray.exceptions.RayError as error:
            raise self._lost(error) from error

    def receive(self, sent: Any) -> Outcome:
        exceptions = self._ray.exceptions
        try:
            outcome: Outcome = self._ray.get(sent, timeout=ANSWER)
            return outcome
        except exceptions.GetTimeoutError as error:
            self.close()
            raise NodeLostError(f"no answer from {self.where} for {ANSWER:g} s; it is given up, with all that it "
                                "held") from error
        except (exceptions.RayActorError, exceptions.ObjectLostError, exceptions.WorkerCrashedError,
                exceptions.NodeDiedError) as error:
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> NodeLostError:
        first = str(error).strip().splitlines()
        self.close()
        return NodeLostError(f"the far device at {self.where} is lost: its machine or its process died, and with it "
                             "the work under way and everything that it held; open another with hcq.open. Ray says: "
                             f"{first[0] if first else type(error).__name__}")

    def close(self) -> None:
        """The actor closes its device, and ends; what it took is free again. Idempotent."""
        actor, self._actor = getattr(self, "_actor", None), None
        if actor is None or not self._ray.is_initialized():
            return
        with suppress(Exception):                       # it may be dead, or hang: then it is ended as it is
            self._ray.get(actor.close.remote(), timeout=10)
        with suppress(Exception):
            self._ray.kill(actor)


def _cause(error: Exception) -> str:
    """The last line of what Ray tells, where the far side's own error stands."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
