"""Members of a sweep computed by workers of a Ray cluster, each written into the same store by whoever computed it.

The plan is fixed before anything is sent: shards of items first, then the members made of them. A worker loads models
into a pool of its own, with one thread, and gets the task whose checkpoints it already holds where there is one. What
a lost worker had not finished is given to another, what takes far longer than the rest is given to a second one, and
what is in the store is never computed again: a driver that dies is simply started again.
"""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from analyses.core.analysis import get
from analyses.core.claim import Fields
from analyses.core.keys import whole_hash
from analyses.core.progress import heard
from analyses.core.running.call import stored
from analyses.core.running.inputs import Loading, ModelPool
from analyses.core.running.run import Request, prepare
from analyses.core.running.shards import computed
from analyses.core.store import Store
from analyses.core.store.files import StoreError
from probe import devices
from probe.errors import InputError, ProbeError
from probe.lazily import torch

if TYPE_CHECKING:
    from probe import Checkpoint

LOSSES = 20  # workers that may die in one sweep before it is given up
LATE = 3.0  # times the usual seconds of a task (at least `PATIENCE`), after which an idle worker gets it too
PATIENCE = 10.0
PLACING = 300.0  # seconds in which a node must come up, and a cluster must start a worker
PATIENT = {  # the same for what Ray itself waits for: its tables, its agents, its workers
    "RAY_gcs_server_port_wait_time_s": "300",
    "RAY_gcs_server_request_timeout_seconds": "300",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300",
}
ALONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Engine:
    """Who computes: this process, or `workers` of a Ray cluster (at `address`, else one started here for the sweep)."""

    name: Literal["local", "ray"] = "local"
    workers: int = 2
    address: str | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """One member of a sweep, or a shard of it: the analysis, everything given to it, the checkpoints among that."""

    analysis: str
    given: Mapping[str, Any]
    limit: int | None
    checkpoints: tuple[Checkpoint, ...]


def code_identity() -> str:
    """Versions of the package, of its code and of Python: what driver and workers must share."""
    return f"posttrain-probe {version('posttrain-probe')} (code {whole_hash()}), Python {platform.python_version()}"


class Bench:
    """What a worker works with: a pool of models and the store."""

    def __init__(self, store: Store, loading: Loading) -> None:
        torch.set_num_threads(1)
        self.store, self.pool = store, ModelPool(loading)

    def run(self, task: Task) -> None:
        """Compute a task unless it is there, and put it into the store."""
        call = prepare(Request(get(task.analysis), task.given, self.store, self.pool, task.limit))
        if stored(call, self.store) is None:
            self.store.shards.put(computed(call, self.store, self.pool))


def _worker() -> type:
    """The actor; defined in here it is sent by value, and imports nothing of ours before its code is compared."""

    class Worker:
        bench: Any = None

        def identity(self) -> str:
            try:
                from analyses.core.running.workers import code_identity

                return code_identity()
            except ImportError as error:
                return f"no posttrain-probe with this engine ({error})"

        def run(self, task: Any, *given: Any) -> None:
            from analyses.core.running.workers import Bench

            self.bench = self.bench or Bench(*given)
            self.bench.run(task)

    return Worker


@dataclass(eq=False)
class _Hand:
    """A worker as the driver sees it: its task (None: it is starting), since when, and the checkpoints it holds."""

    actor: Any
    task: Task | None = None
    since: float = field(default_factory=time.monotonic)
    held: tuple[Checkpoint, ...] = ()


class _Crew:
    """Workers, what they do and what waits."""

    def __init__(self, ray: Any, store: Store, loading: Loading, needed: float) -> None:
        self.ray, self.given = ray, (store, loading)
        self.resources: dict[str, object] = {"num_cpus": 1, "num_gpus": devices.gpus(loading.device)}
        if not self.resources["num_gpus"]:
            self.resources["memory"] = int(needed)  # Ray counts the memory of hosts, not that of GPUs
        self.make = ray.remote(**self.resources, max_restarts=0)(_worker())
        self.waiting, self.left = list[Task](), set[Task]()
        self.busy: dict[Any, _Hand] = {}
        self.idle: list[_Hand] = []
        self.losses, self.seconds = 0, list[float]()
        self.failed: dict[Task, ProbeError] = {}

    def start(self, number: int) -> None:
        """Ask the cluster for workers; each is asked for its code before it is told anything."""
        for _ in range(number):
            hand = _Hand(self.make.remote())
            self.busy[hand.actor.identity.remote()] = hand

    def work(self, tasks: Sequence[Task], done: Callable[[int], None]) -> None:
        """Have all `tasks` computed; `done` is told how many are."""
        self.waiting, self.left = list(tasks), set(tasks)
        begun = time.monotonic()
        while self.left:
            heard()
            for hand in list(self.idle):
                self._assign(hand)
            for ref in self.ray.wait(list(self.busy), timeout=1.0)[0]:
                self._settle(ref)
                done(len(tasks) - len(self.left))
            if self.idle or any(h.task for h in self.busy.values()):
                begun = time.monotonic()
            elif time.monotonic() - begun > PLACING:
                raise ProbeError(
                    f"no worker started in {PLACING:.0f} s: each needs {self.resources}; the cluster has "
                    f"{self.ray.cluster_resources()}, of which free are {self.ray.available_resources()}"
                )

    def _assign(self, hand: _Hand) -> None:
        task = self._next(hand)
        if task is not None:
            self.idle.remove(hand)
            hand.task, hand.since, hand.held = task, time.monotonic(), task.checkpoints
            self.busy[hand.actor.run.remote(task, *self.given)] = hand

    def _next(self, hand: _Hand) -> Task | None:
        """Of what waits, the task whose checkpoints `hand` holds and others do not; else one that is late elsewhere."""
        others = [c for h in (*self.busy.values(), *self.idle) if h is not hand for c in h.held]

        def fit(number: int) -> tuple[int, int, int]:
            needs = self.waiting[number].checkpoints
            return sum(c in hand.held for c in needs), -sum(c in others for c in needs), -number

        if self.waiting:
            return self.waiting.pop(max(range(len(self.waiting)), key=fit))
        running = [h for h in self.busy.values() if h.task in self.left]
        once = [h for h in running if sum(o.task is h.task for o in running) == 1]
        due = max(PATIENCE, LATE * median(self.seconds)) if self.seconds else float("inf")
        late = [h for h in once if time.monotonic() - h.since > due]
        return min(late, key=lambda h: h.since).task if late else None

    def _settle(self, ref: Any) -> None:
        hand = self.busy.pop(ref)
        try:
            answer = self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as error:
            if hand.task is None or not isinstance(error.cause, ProbeError) or isinstance(error.cause, StoreError):
                raise error.cause from None
            self.failed[hand.task] = error.cause  # this member's own: the others are computed
        except self.ray.exceptions.ActorDiedError as error:
            self._lost(hand, error)
            return
        else:
            if hand.task is None and answer != code_identity():
                raise InputError(f"a worker has {answer}; the driver has {code_identity()}. Install the same on both.")
        if hand.task in self.left:  # a second worker may have been faster
            self.seconds.append(time.monotonic() - hand.since)
            self.left.remove(hand.task)
        hand.task = None
        self.idle.append(hand)

    def _lost(self, hand: _Hand, error: Exception) -> None:
        self.losses += 1
        if self.losses > LOSSES:
            raise ProbeError(f"{self.losses} workers died; the last one: {error}. Finished parts are kept.") from error
        elsewhere = any(h.task is hand.task for h in self.busy.values())
        if hand.task in self.left and not elsewhere:
            self.waiting.insert(0, hand.task)
        self.start(1)


def compute(
    waves: Sequence[Sequence[Task]],
    store: Store,
    loading: Loading,
    engine: Engine,
    needed: float,
    done: Callable[[int], None],
) -> dict[Task, ProbeError]:
    """Compute tasks on a cluster, one wave after the other; afterwards they are in the store, or failed for themselves.

    Args:
        waves: tasks; those of a later wave are made of what earlier ones left.
        store: where they go; every worker must reach it.
        loading: of the models.
        engine: how many workers, and where.
        needed: bytes of memory declared for each worker.
        done: told how many tasks of the last wave are finished.

    Returns:
        What went wrong with the tasks that could not be computed.

    Raises:
        InputError: workers with other code than the driver's.
        ProbeError: no cluster at the address, no room for a worker, workers keep dying, or a store that takes nothing.
    """
    with _cluster(engine) as ray:
        crew = _Crew(ray, store, loading, needed)
        crew.start(min(engine.workers, max(map(len, waves))))
        for wave in waves[:-1]:
            crew.work(wave, lambda _: None)
        crew.work(waves[-1], done)
        return crew.failed


@contextmanager
def _cluster(engine: Engine) -> Iterator[Any]:
    # Ray reads its settings when it is imported.
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", **PATIENT}
    if engine.address and (Path.home() / ".ray" / "auth_token").is_file():
        quiet["RAY_AUTH_MODE"] = "token"  # `ray start` asks for the token it finds; `ray.init` would come without
    os.environ.update({k: v for k, v in quiet.items() if k not in os.environ})
    try:
        import ray
    except ImportError as error:
        raise InputError("--engine ray needs Ray: pip install 'posttrain-probe[dist]'") from error
    shared: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": {"env_vars": ALONE}}
    if engine.address is None:
        own: Fields = {"num_cpus": engine.workers, "include_dashboard": False}
        own["object_store_memory"] = 100 * 2**20  # members leave through the store, not through Ray
        with _until_ready():
            ray.init(**shared, **own)
    else:
        _reachable(engine.address)
        try:
            ray.init(address=engine.address, **shared)
        except (ConnectionError, RuntimeError) as error:
            told = "if it asks for a token, RAY_AUTH_MODE=token and ~/.ray/auth_token must be the cluster's"
            raise ProbeError(f"the Ray cluster at {engine.address} refuses: {error} ({told})") from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _until_ready() -> Iterator[None]:
    """Ray gives up a node that it has started after 30 s, a number written into its code; on a busy machine it only
    needs longer. In here its question whether the node is there comes back when it is.

    Raises:
        ProbeError: not there after `PLACING` seconds.
    """
    services: Any = import_module("ray._private.services")
    asked, begun = services.get_node, time.monotonic()

    def get_node(*where: object) -> Any:
        while True:
            try:
                return asked(*where)
            except RuntimeError as error:  # what Ray takes for "not yet"
                if time.monotonic() - begun > PLACING:
                    raise ProbeError(f"Ray's node did not come up in {PLACING:.0f} s ({error})") from error
            heard()
            time.sleep(0.1)

    services.get_node = get_node
    try:
        yield
    finally:
        services.get_node = asked


def _reachable(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise ProbeError(f"no Ray cluster answers at {address} ({error}); start one with `ray start --head`") from error
