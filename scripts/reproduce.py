"""Run experiments and put every claim of the papers beside the value obtained here.

    python -m scripts.reproduce                                    everything, quick
    python -m scripts.reproduce paper=ttrec profile=full           one paper, or several: a,b
    python -m scripts.reproduce experiment=ttrec_kernels experiment.batch=64
    python -m scripts.reproduce experiment=ttrec_kernels experiment.batch=64,128
    python -m scripts.reproduce machine=joblib                     several at a time
    python -m scripts.reproduce list=true                          say what would be run
    python -m scripts.reproduce experiment=ttrec_kernels --cfg job --resolve

An interrupted command continues where it stopped when it is given again.

Exit codes: 0 all ran, 1 one failed or timed out, 2 bad configuration, 3 with strict=true and a
claim missed, 130 interrupted (143 by SIGTERM).
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from common.experiment import PACKAGES, Experiment, all_experiments
from common.suite import hush, say

# Everything else is imported where it is needed: --help must not wait for hydra, and a child
# process imports this module without running any of it.
if TYPE_CHECKING:
    from common.config import Plan, Session
    from common.runner import Outcome

OK, FAILED, BAD_CONFIG, MISSED = 0, 1, 2, 3

_OVERRIDES = """\
overrides, as <name>=<value>:
  paper=         {papers} or all; several with commas
  experiment=    one experiment or several, by name; see the list below
  experiment.X=  a field of the experiment's settings; a,b,c runs each value
  profile=       quick (default) or full
  machine=       local (default), joblib, slurm or ray
  resume=false   run again what earlier runs already measured
  strict=true    exit with 3 if a claim is missed
  list=true      list the selected experiments, their claims and state; run nothing
  seed=0  threads=0 (0: each experiment's own)  isolate=true  memory_gb=  timeout_s=
  results=       folder of the results (default: results)

experiments:
{experiments}
"""


def main(
    arguments: Sequence[str] | None = None,
    packages: Sequence[str] = PACKAGES,
    config_dirs: Sequence[Path] = (),
) -> int:
    """Run the command line and return the exit code.

    packages:    which packages' experiments there are
    config_dirs: further folders that hold experiment/<name>.yaml files
    """
    before = signal.signal(signal.SIGTERM, _raise_interrupted)
    try:
        notes: list[str] = []
        experiments = all_experiments(packages, note=notes.append)
        options = _parser(experiments).parse_intermixed_args(arguments)
        for note in notes:
            say(note, sys.stderr)
        return _run(options, experiments, config_dirs)
    except KeyboardInterrupt as interrupt:
        return 128 + getattr(interrupt, "signum", signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # the reader of --help has seen enough
            hush(sys.stdout)


def _run(
    options: argparse.Namespace, experiments: dict[str, Experiment], config_dirs: Sequence[Path]
) -> int:
    from common.config import Session
    from common.validation import ConfigError

    absent = [folder for folder in options.config_dir if not folder.is_dir()]
    for folder in absent:
        say(f"--config-dir must be a folder of experiment/<name>.yaml, got {folder}", sys.stderr)
    if absent:
        return BAD_CONFIG
    with Session(experiments, [*config_dirs, *options.config_dir]) as session:
        try:
            plan = session.plan(options.overrides)
            _check_claims(plan)
        except ConfigError as problem:
            for message in problem.messages:
                say(message, sys.stderr)
            return BAD_CONFIG
        if options.cfg:
            _show_config(session, plan, options.resolve)
            return OK
        if plan.root.list:
            _list(plan)
            return OK
        return _sweep(session, plan)


def _check_claims(plan: Plan) -> None:
    """Raise ConfigError for a wrong claims.toml, and for a claim that an experiment alone knows.

    Every package's file is read, since the report will need them all.
    """
    from common import claims
    from common.validation import ConfigError

    names = dict.fromkeys(name for job in plan.jobs for name in job.experiment.claims)
    wrong: list[str] = []
    try:
        claims.load()
    except claims.ClaimsError as problem:
        wrong.append(str(problem))
    for name in names:
        try:
            claims.find(name)
        except ValueError as problem:
            wrong.append(str(problem))
    if wrong:
        raise ConfigError(list(dict.fromkeys(wrong)))


def _sweep(session: Session, plan: Plan) -> int:
    """Run what is not done yet, then show and write the verdicts."""
    from common.record import ResultsError
    from common.runner import check_writable

    try:
        check_writable(plan.root.results)
    except ResultsError as problem:
        say(str(problem), sys.stderr)
        return FAILED
    outcomes = _run_jobs(session, plan)
    bad = [outcome for outcome in outcomes if not outcome.is_done]
    for outcome in bad:
        name = outcome.job.experiment.name
        say(f"\n{name} {outcome.status}: {outcome.error}\n  {outcome.job.command}", sys.stderr)
    _conclude(session, plan)
    _tidy_cache()
    if bad:
        return FAILED
    return MISSED if plan.root.strict and _missed(outcomes) else OK


def _run_jobs(session: Session, plan: Plan) -> list[Outcome]:
    """Run every job whose earlier run cannot be used; how each job ended."""
    from common.runner import Outcome, close_abandoned, state
    from common.suite import Board, JobTask

    board = Board.of(plan.jobs)
    done: dict[str, Outcome] = {}
    for job in plan.jobs:
        earlier = state(job) if job.options.resume else None
        if earlier is not None and earlier.is_done:
            done[job.plan_id] = earlier
            board.ends(earlier)
    todo = [job for job in plan.jobs if job.plan_id not in done]
    names = dict.fromkeys(job.experiment.name for job in todo)
    try:
        if todo:
            task = JobTask(session.experiments, board)
            for outcome, seen in session.launch(plan, list(names), task):
                done[outcome.job.plan_id] = outcome
                if not seen:
                    board.ends(outcome)
    except KeyboardInterrupt:
        for job in todo:
            close_abandoned(job, "interrupted")
        say("interrupted; the same command continues from here", sys.stderr)
        raise
    except Exception as problem:  # of the launcher: what the jobs raise is in their outcomes
        lost = f"the launcher failed: {type(problem).__name__}: {problem}"
        for job in todo:
            close_abandoned(job, "failed")
            done.setdefault(job.plan_id, Outcome(job, "failed", error=lost))
    return [done[job.plan_id] for job in plan.jobs]


def _conclude(session: Session, plan: Plan) -> None:
    """Print the verdicts and write the page; its path is the last line."""
    from rich.console import Console

    class QuietConsole(Console):
        """Stays silent when its reader has gone away, instead of ending the program."""

        def on_broken_pipe(self) -> None:
            hush(sys.stdout)

    from common.extras import MissingExtra
    from common.report import page, terminal
    from common.results import Store

    store = Store(plan.root.results)
    packages = list(dict.fromkeys(job.experiment.package for job in plan.jobs))
    path = plan.root.results / "report.html"
    with _warnings_as_lines():
        try:
            say("")
            terminal.print_summary(store, QuietConsole(), packages)
            page.write(store, path, experiments=session.experiments)
        except MissingExtra as missing:
            say(f"no {path}: {missing}", sys.stderr)
            return
    say(f"\n{path}")


def _tidy_cache() -> None:
    """Drop the compiled kernels that were used longest ago; what goes wrong harms no run."""
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from common import native

        native.prune()


def _missed(outcomes: Sequence[Outcome]) -> list[str]:
    """Ids of claims that the records of these runs miss."""
    from common import claims

    records = [record for outcome in outcomes for record in outcome.folder.records()]
    ids = dict.fromkeys(record.claim for record in records if record.claim)
    missed = []
    for claim_id in ids:
        found = claims.judge(claims.find(claim_id), [r for r in records if r.claim == claim_id])
        if found.verdict is claims.Verdict.MISSED:
            missed.append(claim_id)
            say(f"missed: {claim_id}: {found.reason}", sys.stderr)
    return missed


def _show_config(session: Session, plan: Plan, resolve: bool) -> None:
    from omegaconf import OmegaConf

    for job, choice in zip(plan.jobs, plan.choices, strict=True):
        config = OmegaConf.to_container(session.compose(job.experiment, choice), resolve=resolve)
        assert isinstance(config, dict)
        # As text a path is what one would write in a yaml file.
        text = OmegaConf.to_yaml(OmegaConf.create(config | {"results": str(config["results"])}))
        say(f"--- # {job.experiment.name}" if len(plan.jobs) > 1 else f"# {job.experiment.name}")
        say(text.rstrip())


def _list(plan: Plan) -> None:
    """A line for every selected run: its name, how it stands, its claims."""
    from common.runner import STALE, state

    same = set.intersection(*map(set, plan.choices))
    names = [
        " ".join([job.experiment.name, *(word for word in choice if word not in same)])
        for job, choice in zip(plan.jobs, plan.choices, strict=True)
    ]
    width = max(map(len, names))
    for name, job in zip(names, plan.jobs, strict=True):
        found = state(job)
        status = "done" if found.is_done else found.status
        why = f" ({found.reason})" if found.status == STALE else ""
        claims = ", ".join(job.experiment.claims) or "no claims"
        length = _length(job.experiment.full_minutes) if job.options.profile == "full" else ""
        say(f"{name:{width}s}  {status}{why}{length}  {claims}")


def _length(minutes: float) -> str:
    """What a full profile takes, in words."""
    return f"  up to {minutes / 60:.1f} h" if minutes >= 90 else f"  up to {minutes:g} min"


def _parser(experiments: dict[str, Experiment]) -> argparse.ArgumentParser:
    names = "\n".join(f"  {name}" for name in experiments) or "  none yet"
    packages = ", ".join(PACKAGES)
    parser = argparse.ArgumentParser(
        prog="python -m scripts.reproduce",
        description=__doc__,
        epilog=_OVERRIDES.format(papers=packages, experiments=names),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", help="see below")
    parser.add_argument("--cfg", choices=["job"], help="print the configuration, run nothing")
    parser.add_argument("--resolve", action="store_true", help="with --cfg: values, not formulas")
    parser.add_argument(
        "--config-dir",
        type=Path,
        action="append",
        default=[],
        help="a further folder that holds experiment/<name>.yaml files",
    )
    return parser


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Print a warning about the store as a sentence, without the line of code that gave it."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        say(f"warning: {message}", sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _raise_interrupted(signum: int, _frame: FrameType | None) -> NoReturn:
    from common.runner import Interrupted

    raise Interrupted(signum)


if __name__ == "__main__":
    sys.exit(main())
