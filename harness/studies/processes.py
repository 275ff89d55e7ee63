"""Runs packs of trials in worker processes: one worker per CPU core, each on one thread, or one for an accelerator.

Every executor runs here: `processes` packs one trial each, `lanes` as many as its policy and the memory allow, both in
workers on this machine; `ray` packs as the policy says, in workers on the nodes of a cluster.
"""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.records import InputError
from harness.studies.fleet import Fleet, Worker, WorkerLost
from harness.studies.local_fleet import LocalFleet
from harness.studies.machine import Machine
from harness.studies.pack_checkpoints import forget, pack_folder
from harness.studies.packing import Packing, alike, pack
from harness.studies.policy import Policy, policy
from harness.training.trial import Trial

if TYPE_CHECKING:
    from harness.training.run import Outcome

TRIES = 3
"""How often a pack that its environment broke (killed worker, out of memory) is started before giving up."""


class EnvironmentFailure(Exception):
    """A trial failed again and again for reasons outside itself; finished trials are stored."""


class _Request(NamedTuple):
    kind: str  # start, compile or run
    group: str = ""
    addresses: tuple[str, ...] = ()


@dataclasses.dataclass
class _Member:
    """A worker of the pool, and what it is at."""

    worker: Worker
    started: bool = False
    request: _Request | None = None
    groups: set[str] = dataclasses.field(default_factory=set)


def available_cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_trials(
    trials: Sequence[Trial],
    jobs: int,
    on_started: Callable[[Machine], None],
    on_compiled: Callable[[str, int, Packing], None],
    on_finished: Callable[[Trial, Outcome], None],
    executor: str | None = None,
    finished: Collection[str] = (),
    packings: Mapping[str, Packing] | None = None,
    ray_address: str | None = None,
    folder: Path | None = None,
    found_elsewhere: Callable[[Machine], Collection[str]] = lambda machine: (),
) -> None:
    """Runs trials in worker processes, each compile group's programs compiled by one worker before the others use them.

    Trials that are to run alone come last, one after the other in the order given. Trials over several devices have
    workers of their own; on CPU, which is divided into so many.

    Args:
      trials: every trial that is planned, each once; results do not depend on the number of workers.
      jobs: most workers at a time; an accelerator has one.
      on_started: called with the machine, once for each kind of workers.
      on_compiled: called with compile group, number of compilations and packing, once a group.
      on_finished: called with each trial and its outcome, in the order of finishing, in this process.
      executor: one of `harness.studies.policy.EXECUTORS`; None for what the policy says of each workload.
      finished: addresses of trials that are not needed; a pack that holds others too is run again as a whole.
      packings: of groups that were begun before; their trials that are not packed yet make further packs.
      ray_address: of the cluster for the executor `ray`; None for one on this machine.
      folder: the result folder, where packs that take long leave checkpoints, see `harness.studies.pack_checkpoints`;
        None for no checkpoints.
      found_elsewhere: called with the machine, after `on_started`; gives the addresses of trials that need not be run
        either.

    Raises:
      InputError: the data are missing or not the expected ones, or the cluster is not to be had.
      EnvironmentFailure: a pack failed `TRIES` times.
    """
    kinds: dict[tuple[bool, int], list[Trial]] = {}
    for trial in trials:
        kinds.setdefault((trial.alone, trial.devices), []).append(trial)
    for (alone, _), members in sorted(kinds.items(), key=lambda kind: kind[0]):
        handlers = (on_started, on_compiled, on_finished, found_elsewhere)
        workers = 1 if alone else jobs
        if executor == "ray":
            from harness.studies.ray_fleet import RayFleet

            fleet, packed_by = RayFleet(members, workers, jobs, ray_address), None
        else:
            fleet, packed_by = LocalFleet(workers, members[0].devices), executor
        _Pool(members, fleet, *handlers, packed_by, set(finished), dict(packings or {}), folder).run()


class _Pool:
    """The workers, and what is left for them to do."""

    def __init__(
        self,
        trials: Sequence[Trial],
        fleet: Fleet,
        on_started: Callable[[Machine], None],
        on_compiled: Callable[[str, int, Packing], None],
        on_finished: Callable[[Trial, Outcome], None],
        found_elsewhere: Callable[[Machine], Collection[str]],
        executor: str | None,
        finished: set[str],
        packings: dict[str, Packing],
        folder: Path | None,
    ):
        self._fleet = fleet
        self._on_started, self._on_compiled, self._on_finished = on_started, on_compiled, on_finished
        self._found_elsewhere = found_elsewhere
        self._folder = folder
        self._executor = executor
        self._packings = packings
        self._trials = {trial.address(): trial for trial in trials}
        self._turns = {address: turn for turn, address in enumerate(self._trials)}
        self._alone, self._devices = trials[0].alone, trials[0].devices
        groups: dict[str, list[Trial]] = {}
        for trial in trials:
            groups.setdefault(trial.compile_group(), []).append(trial)
        self._groups = groups
        self._finished: set[str] = set()
        self._leave_out(finished)
        self._ready: dict[str, deque[_Request]] = {}
        self._tries: dict[_Request, int] = {}
        self._members: list[_Member] = []
        self._machine: Machine | None = None

    def _leave_out(self, finished: Collection[str]) -> None:
        """Leaves out the groups that have nothing but finished trials; before any is compiled."""
        self._finished.update(finished)
        addresses = {group: [trial.address() for trial in members] for group, members in self._groups.items()}
        self._groups = {
            group: members for group, members in self._groups.items() if not self._finished.issuperset(addresses[group])
        }
        self._to_compile = deque(self._groups)
        self._unpacked = set(self._groups)

    def run(self) -> None:
        """Runs until nothing is left."""
        try:
            while work_left := self._work_left():
                # The first worker finds out what machine this is.
                wanted = 1 if self._machine is None else min(self._fleet.room(self._machine), work_left)
                while len(self._members) < wanted:
                    self._members.append(_Member(self._fleet.start(self._machine)))
                for member in self._members:
                    if member.started and member.request is None and (request := self._next(member)) is not None:
                        member.request = request
                        member.worker.send(request.kind, self._content(request))
                busy = {m.worker: m for m in self._members if m.request is not None or not m.started}
                for worker in self._fleet.wait(list(busy)):
                    self._take_in(busy[worker])
        finally:
            for member in self._members:
                member.worker.kill()
            self._fleet.close()

    def _work_left(self) -> int:
        """At least 1 while there is any: packs that wait or run, and the trials of groups that are not packed yet."""
        running = sum(member.request is not None and member.request.kind == "run" for member in self._members)
        unpacked = sum(len(self._groups[group]) for group in self._unpacked)
        return unpacked + sum(map(len, self._ready.values())) + running

    def _executor_of(self, chosen: Policy) -> str:
        """The executor that is asked for or chosen; lanes would neither be alone nor go over several devices."""
        return "processes" if self._alone or self._devices > 1 else self._executor or chosen.executor

    def _next(self, member: _Member) -> _Request | None:
        if self._to_compile:
            # A trial that measures curvature or noise, or that predicts, compiles that program too.
            group = self._to_compile.popleft()
            chosen = max(self._groups[group], key=_programs_wanted)
            request = _Request("compile", group, (chosen.address(),))
        else:
            waiting = [group for group, requests in self._ready.items() if requests]
            if not waiting:
                return None
            if self._alone:  # by turns, so that what slows the machine down for a while does not hit one group
                group = min(waiting, key=lambda group: self._turns[self._ready[group][0].addresses[0]])
            else:
                # A worker stays with the groups it has loaded: loading one takes as long as a few trials.
                group = max(waiting, key=lambda group: (group in member.groups, len(self._ready[group])))
            request = self._ready[group].popleft()
        member.groups.add(group)
        return request

    def _content(self, request: _Request) -> tuple[Any, ...]:
        packing = self._packings.get(request.group)
        trials = [self._trials[address] for address in request.addresses]
        if request.kind == "run":
            return trials, packing.lanes, packing.chunk, self._checkpoints(request)
        if packing is not None:
            lanes, chunk = packing.lanes, packing.chunk
        else:
            chosen = policy(trials[0].workload.name, self._machine.backend)
            most = max(map(len, alike(self._groups[request.group])))
            lanes = min(chosen.lanes, most) if self._executor_of(chosen) == "lanes" else 1
            chunk = trials[0].steps_per_call or chosen.chunk
        return trials[0], lanes, chunk, self._fleet.memory(self._machine)

    def _checkpoints(self, request: _Request) -> Path | None:
        """Of a pack that may be begun again; what is timed is not disturbed by them."""
        return None if self._folder is None or self._alone else pack_folder(self._folder.absolute(), request.addresses)

    def _take_in(self, member: _Member) -> None:
        request, member.request = member.request, None
        try:
            answer, content = member.worker.receive()
        except WorkerLost as loss:
            self._dismiss(member)
            self._give_back(request, str(loss))
            return
        if answer == "started":
            self._take_in_start(member, content)
        elif answer == "bad_input":
            raise InputError(content)
        elif answer == "failed":
            self._give_back(request, content)
        elif answer == "compiled":
            self._take_in_group(request.group, *content)
        else:
            for address, outcome in zip(request.addresses, content, strict=True):
                self._on_finished(self._trials[address], outcome)
            if (checkpoints := self._checkpoints(request)) is not None:
                forget(checkpoints)

    def _take_in_start(self, member: _Member, machine: Machine) -> None:
        member.started = True
        self._tries.pop(_Request("start"), None)
        if self._machine is None:
            self._machine = machine
            self._on_started(machine)
            if found := self._found_elsewhere(machine):
                self._leave_out(found)
            if machine.backend != "cpu":
                # It was started on one thread, which an accelerator's compiler and input must not be.
                self._dismiss(member)
        elif machine.device != self._machine.device:
            raise InputError(
                f"one worker runs on {self._machine.device}, another on {machine.device}, and their bits may differ; "
                "use a cluster of one kind of machine"
            )

    def _dismiss(self, member: _Member) -> None:
        self._members.remove(member)
        member.worker.kill()

    def _take_in_group(self, group: str, compilations: int, lanes: int) -> None:
        begun = self._packings.get(group)
        packed = set() if begun is None else {address for addresses in begun.packs for address in addresses}
        members = [trial for trial in self._groups[group] if trial.address() not in packed]
        if begun is None:
            chosen = policy(members[0].workload.name, self._machine.backend)
            packing = pack(members, self._executor_of(chosen), lanes, members[0].steps_per_call or chosen.chunk)
        else:  # packs that were run stay what they were
            packs = pack(members, begun.executor, begun.lanes, begun.chunk).packs
            packing = begun._replace(packs=begun.packs + packs)
        self._packings[group] = packing
        self._unpacked.discard(group)
        self._on_compiled(group, compilations, packing)
        self._ready[group] = deque(
            _Request("run", group, addresses) for addresses in packing.packs if not self._finished.issuperset(addresses)
        )

    def _give_back(self, request: _Request | None, why: str) -> None:
        key = request or _Request("start")
        self._tries[key] = self._tries.get(key, 0) + 1
        if self._tries[key] >= TRIES:
            raise EnvironmentFailure(f"a trial failed {TRIES} times, finished trials are kept: {why}")
        if key.kind == "compile":
            self._to_compile.appendleft(key.group)
        elif key.kind == "run":
            self._ready[key.group].appendleft(key)


def _programs_wanted(trial: Trial) -> tuple[bool, ...]:
    return trial.curvature_examples > 0, bool(trial.noise_steps), trial.predictions
