"""The fair protocol on the command line: the plan, the rounds of runs, the page, the summary."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ailora.cli.console import console, quiet_libraries, say, show
from ailora.errors import UserError
from ailora.lab.cli import options, sweeps
from ailora.lab.experiments import Store
from ailora.lab.experiments.calibration import by_kind, cores, kind, measure, seconds
from ailora.lab.experiments.engines.here import Here
from ailora.lab.experiments.engines.local import Local
from ailora.lab.experiments.fair import CHOOSE, REPORT, Protocol, fair, next_runs, setting_key
from ailora.lab.experiments.fair_record import Record
from ailora.lab.experiments.jobs import Tasks, jobs_of
from ailora.lab.report.fair_page import (
    RATE_DROP,
    SCORE_DROP,
    FairReport,
    fair_report,
    plan_table,
    rate_table,
    score_table,
    write_fair,
)
from ailora.lab.report.fair_plan import Plan, seconds_of
from ailora.lab.training.folder import check_writable

if TYPE_CHECKING:
    from ailora.lab.experiments import Grid
    from ailora.lab.experiments.engines.ray import OnRay
    from ailora.lab.experiments.jobs import Job
    from ailora.lab.experiments.store import Stored
    from ailora.lab.settings import RunConfig


def compare_fairly(
    settings: Sequence[RunConfig],
    seeds: tuple[int, ...] | None,
    given: options.Fair,
    engine: str | Local | OnRay,
    out: Path,
    *,
    store: Path,
) -> bool:
    """Plan, do what is not done yet, write the page and say what it says.

    Args:
        settings: What is compared; each begins its search around its ``lr``.
        seeds: Seeds to report on; None for the default.
        given: The other options.
        engine: The engine, or its name.
        out: Folder of the page.
        store: Folder of the runs.

    Returns:
        Whether a reported run failed, or a setting has no rate.
    """
    quiet_libraries()
    budget = seconds_of(given.budget) if given.budget else None
    if budget is not None and not isinstance(engine, str | Local):
        raise UserError(
            "--budget needs the time of a run, which is measured on this machine and not on Ray's: "
            "give --seeds instead"
        )
    protocol = Protocol(
        settings=settings,
        choose=given.choose or CHOOSE,
        report=seeds or _free(given.choose or CHOOSE),
        halving=given.halving,
    )
    check_writable(out)
    rounds = _Rounds(Store(store), engine)
    with console.status("reading the data"):  # bad data is refused before anything is written
        data = [rounds.tasks.of(setting).fingerprint for setting in settings]
    plan, command = rounds.plan(protocol), shlex.join(["ailora", *sys.argv[1:]])
    if budget is not None:
        earlier = _earlier(store, protocol, command)
        protocol = earlier or (plan.within(budget) if plan is not None else protocol)
    if plan is not None:
        plan = replace(plan, protocol=protocol)
        show(plan_table(plan), whole=("reporting seeds", "runs", "time"))
    if given.plan_only:
        return False
    record = Record(protocol=protocol, data=data, command=command)
    record.write(store)
    fair(protocol, rounds.do)
    report = fair_report(record, Store(store), plan)
    _say(report, out)
    expected = len(protocol.settings) * len(protocol.report)
    return sum(len(own) for part in report.parts for own in part.reported.values()) < expected


def settings_and_seeds(grids: Sequence[Grid]) -> tuple[list[RunConfig], tuple[int, ...] | None]:
    """What a sweep file compares, and the seeds that it names; None where it names none.

    Raises:
        UserError: It lists rates, or its grids have other seeds each.
    """
    if any("lr" in grid.axes for grid in grids):
        raise UserError(
            "[grid] lr: --protocol fair chooses the rates itself; put the one to begin around "
            "into [common]"
        )
    seeds = {tuple(grid.axes["seed"]) if "seed" in grid.axes else None for grid in grids}
    if len(seeds) > 1:
        raise UserError("[[grid]] seed: --protocol fair needs the same seeds in all grids")
    found = {setting_key(run): replace(run, seed=0) for grid in grids for run in grid.runs()}
    return list(found.values()), seeds.pop()


class _Rounds:
    """Does the runs that the protocol asks for, round after round, in one store."""

    def __init__(self, store: Store, engine: str | Local | OnRay) -> None:
        self.store = store
        self.tasks = Tasks()
        here = Here(self.tasks, strict=True)
        named = here if engine == "here" else engine
        self.engine = sweeps.engine_named(named) if isinstance(named, str) else named

    def do(self, runs: Sequence[RunConfig]) -> list[tuple[RunConfig, Stored]]:
        """Do runs that are not done yet; how each ended. What diverged is not tried again."""
        jobs = jobs_of(runs, self.tasks, self.store)
        for job in jobs:
            failure = self.store.failure(job.run_id)
            if failure is not None and failure.kind != "diverged":
                self.store.forgive(job.run_id)
        states = sweeps.states_of(jobs, self.store)
        if set(states.values()) != {"finished"}:
            sweeps.do_runs(runs, self.store, self.engine, tasks=self.tasks, estimate=False)
        return [(job.config, self.store.read(job.run_id)) for job in jobs]

    def plan(self, protocol: Protocol) -> Plan | None:
        """What the protocol costs by a few measured steps; None where its search is done."""
        firsts = [next_runs(protocol, setting, {})[0] for setting in protocol.settings]
        jobs = jobs_of([run for own in firsts for run in own], self.tasks, self.store)
        states = sweeps.states_of(jobs, self.store)
        left = sweeps.left_to_do(jobs, states, retry=False)
        if not left:
            return None
        first = jobs_of([own[0] for own in firsts], self.tasks, self.store)
        with console.status("measuring a few steps"):
            found, at_once = self._seconds(first)
        return Plan(protocol=protocol, seconds=found, at_once=at_once) if found else None

    def _seconds(self, jobs: Sequence[Job]) -> tuple[list[float], int]:
        """Seconds of each job, and the number at a time; no seconds on a cluster."""
        if isinstance(self.engine, Local):
            layout = self.engine.layout(jobs, self.store, remember=False)
            costs = self.engine.costs(jobs, self.store, remember=False)
            self.engine.close()
            if any(kind(job.config) not in costs for job in jobs):
                return [], layout.workers
            return [seconds(job, costs[kind(job.config)]) for job in jobs], layout.workers
        if not isinstance(self.engine, Here):
            return [], cores()
        measure(jobs[0].config)  # the first in a process pays for imports that others share
        known = {name: measure(job.config) for name, job in by_kind(jobs).items()}
        return [seconds(job, known[kind(job.config)]) for job in jobs], 1


def _free(choose: Sequence[int]) -> tuple[int, ...]:
    """As many reporting seeds as by default, none of which chooses."""
    found = [seed for seed in range(max(*choose, 0) + 1 + len(REPORT)) if seed not in choose]
    return REPORT if not set(REPORT) & set(choose) else tuple(found[-len(REPORT) :])


def _earlier(store: Path, protocol: Protocol, command: str) -> Protocol | None:
    """The protocol with the seeds that its budget allowed when the same command was first given.

    Whatever time is left by now, the same command asks for the same runs.
    """
    before = Record.read(store)
    if before is None or before.command != command:
        return None
    alike = replace(before.protocol, report=protocol.report) == protocol
    return before.protocol if alike else None


def _say(report: FairReport, out: Path) -> None:
    with console.status("drawing the report"):
        page = write_fair(report, out)
    if not any(part.curves for part in report.parts):
        raise UserError(f"no setting could be reported: {report.parts[0].without[0]}")
    for part in report.parts:
        console.print()
        show(score_table(part), whole=("method", "lr", "test score", "verdict"), drop=SCORE_DROP)
        show(rate_table(part), whole=("method", "best lr"), drop=RATE_DROP)
        for words in (*part.advice, *part.notes):
            say(words)
    console.print(f"report: {page.resolve()}", soft_wrap=True, highlight=False)
