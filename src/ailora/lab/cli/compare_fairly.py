"""The fair protocol on the command line: the plan, the rounds of runs, the page, the summary."""

from __future__ import annotations

import shlex
import sys
import time
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
from ailora.lab.experiments.fair import CHOOSE, REPORT, Protocol, fair, next_runs
from ailora.lab.experiments.fair_record import Record
from ailora.lab.experiments.grid import distinct_runs
from ailora.lab.experiments.jobs import Tasks, jobs_of
from ailora.lab.experiments.wording import counted, duration
from ailora.lab.report.fair_page import (
    RATE_DROP,
    RATE_WHOLE,
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
        data = tuple(rounds.tasks.of(setting).fingerprint for setting in settings)
    asked = Record(protocol=protocol, data=data, command=shlex.join(["ailora", *sys.argv[1:]]))
    with rounds.engine.open():
        plan = rounds.plan(asked)
        earlier = _earlier(store, asked) if budget is not None else None
        record = earlier or _within(budget, asked, plan)
        if plan is not None:
            _say_plan(replace(plan, protocol=record.protocol), protocol)
        if given.plan_only:
            return False
        record.write(store)
        if plan is not None:
            record, plan = _begun(rounds, record, plan, None if earlier else budget, asked)
        fair(record.protocol, rounds.do)
    report = fair_report(record, Store(store), plan)
    _say(report, out)
    expected = len(record.protocol.settings) * len(record.protocol.report)
    return sum(len(own) for part in report.parts for own in part.reported.values()) < expected


def _begun(
    rounds: _Rounds, record: Record, plan: Plan, budget: float | None, asked: Record
) -> tuple[Record, Plan]:
    """Do the first runs, and plan the others by the time that those took."""
    timed = rounds.timed(plan)
    if rounds.in_turn and budget is not None:  # else the workers' start would cost seeds
        record = _within(budget, asked, timed, begun=True)
    rounds.planned = replace(timed, protocol=record.protocol)
    if timed.basis != plan.basis:
        words = (rounds.planned.whole, rounds.planned.cost(len(asked.protocol.report)))
        say(" ".join(filter(None, words)))
    record.write(rounds.store.path)
    return record, rounds.planned


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
    runs = (replace(run, seed=0) for grid in grids for run in grid.runs())
    return distinct_runs(runs), seeds.pop()


class _Rounds:
    """Does the runs that the protocol asks for, round after round, in one store.

    It times them: what a few steps say of a whole run is far off on a machine that does other work.
    """

    def __init__(self, store: Store, engine: str | Local | OnRay) -> None:
        self.store = store
        self.tasks = Tasks()
        here = Here(self.tasks, strict=True)
        named = here if engine == "here" else engine
        self.engine = sweeps.engine_named(named) if isinstance(named, str) else named
        self.planned: Plan | None = None  # by which the time left is told
        self._new, self._took, self._foreseen = 0, 0.0, 0.0  # runs done here, and their seconds

    @property
    def in_turn(self) -> bool:
        """Whether runs are done in this process, one after another."""
        return isinstance(self.engine, Here)

    def do(self, runs: Sequence[RunConfig]) -> list[tuple[RunConfig, Stored]]:
        """Do runs that are not done yet; how each ended. What diverged is not tried again."""
        jobs = jobs_of(runs, self.tasks, self.store)
        for job in jobs:
            failure = self.store.failure(job.run_id)
            if failure is not None and failure.kind != "diverged":
                self.store.forgive(job.run_id)
        states = sweeps.states_of(jobs, self.store)
        if set(states.values()) != {"finished"}:
            new = [job for job in jobs if states[job.run_id] not in ("finished", "failed")]
            self._say_left([job.config for job in new])
            began = time.monotonic()
            sweeps.do_runs(
                runs,
                self.store,
                self.engine,
                tasks=self.tasks,
                estimate=False,
                say_data=not self._new,  # once is enough
            )
            self._count(new, time.monotonic() - began)
        return [(job.config, self.store.read(job.run_id)) for job in jobs]

    def plan(self, asked: Record) -> Plan | None:
        """What the protocol costs by a few measured steps; None where nothing is left to do."""
        searches = asked.searches(self.store.runs())
        if not any(search.missing for search in searches):
            return None
        firsts = [next_runs(asked.protocol, one, {})[0][0] for one in asked.protocol.settings]
        with console.status("measuring a few steps"):
            found, at_once = self._seconds(jobs_of(firsts, self.tasks, self.store))
        if not found:
            return None
        return Plan(protocol=asked.protocol, seconds=found, at_once=at_once, searches=searches)

    def timed(self, plan: Plan) -> Plan:
        """Do the first run of each setting, and plan by the time that those took.

        The plan is as it was where they were done before.
        """
        self.planned = plan
        self.do([next_runs(plan.protocol, one, {})[0][0] for one in plan.protocol.settings])
        if not self._foreseen:
            return plan
        each = duration(self._took / self._new)
        basis = "the first run" if self._new == 1 else f"the first {self._new} runs"
        basis += f", {each} each" + ", the start of the workers among it" * (not self.in_turn)
        self.planned = plan.corrected(self._took / self._foreseen, basis)
        self._foreseen = self._took
        return self.planned

    def _count(self, new: Sequence[Job], took: float) -> None:
        self._new, self._took = self._new + len(new), self._took + took
        if self.planned is not None:
            self._foreseen += self.planned.time_of([job.config for job in new])

    def _say_left(self, new: Sequence[RunConfig]) -> None:
        """How long the rest takes, at the pace of what was done here."""
        if self.planned is None or not self._foreseen or not new:
            return
        report = self.planned.protocol.report
        expected = self.planned.left(len(report)) - self._new
        last = all(run.seed in report for run in new)
        runs = len(new) if last else max(len(new), expected)
        pace = self.planned.time_of(new) / len(new) * self._took / self._foreseen
        say(
            f"about {duration(runs * pace)} left for {counted(runs, 'run')}, at the pace of the "
            f"{counted(self._new, 'run')} so far"
        )

    def _seconds(self, jobs: Sequence[Job]) -> tuple[list[float], int]:
        """Seconds of each job, and the number at a time; no seconds on a cluster."""
        if isinstance(self.engine, Local):
            layout = self.engine.layout(jobs, self.store, remember=False)
            costs = self.engine.costs(jobs, self.store, remember=False)
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


def _earlier(store: Path, asked: Record) -> Record | None:
    """The comparison with the seeds that its budget allowed when the same command was first given.

    Whatever time is left by now, the same command asks for the same runs.
    """
    before = Record.read(store)
    if before is None:
        return None
    protocol = replace(before.protocol, report=asked.protocol.report)
    return before if replace(before, protocol=protocol) == asked else None


def _within(
    budget: float | None, asked: Record, plan: Plan | None, *, begun: bool = False
) -> Record:
    """The comparison with the reporting seeds that a budget in seconds allows.

    Raises:
        UserError: Not even the fewest fit, and nothing is begun yet.
    """
    if budget is None or plan is None:
        return asked
    plan = replace(plan, protocol=asked.protocol)
    try:
        return replace(asked, protocol=plan.within(budget))
    except UserError as error:
        if not begun:
            raise
        say(f"warning: {error}")
        return replace(asked, protocol=plan.fewest)


def _say_plan(plan: Plan, asked: Protocol) -> None:
    show(plan_table(plan), whole=("reporting seeds", "runs", "time"))
    if cost := plan.cost(len(asked.report)):
        say(cost)


def _say(report: FairReport, out: Path) -> None:
    with console.status("drawing the report"):
        page = write_fair(report, out)
    if not any(part.reported for part in report.parts):
        raise UserError(f"no setting could be reported: {report.parts[0].without[0]}")
    for part in report.parts:
        console.print()
        show(score_table(part), whole=("method", "lr", "test score", "verdict"), drop=SCORE_DROP)
        show(rate_table(part), whole=RATE_WHOLE, drop=RATE_DROP)
        for words in (*part.advice, *part.notes):
            say(words)
    console.print(f"report: {page.resolve()}", soft_wrap=True, highlight=False)
