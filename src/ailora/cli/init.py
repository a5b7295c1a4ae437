"""``ailora init``: a start as files, for trainers whose code is not yours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ailora.cli.inspect import PARTS_HELP, parse_parts

if TYPE_CHECKING:
    from rich.table import Table

    from ailora.offline import InitPlan, InitReport


def init(
    model: Annotated[
        str,
        typer.Argument(help="'demo', a folder with config.json and safetensors, or a hub name."),
    ],
    out: Annotated[Path, typer.Option(help="New folder, or that of an interrupted run.")],
    rank: Annotated[int, typer.Option(help="Rank of the factors.")] = 8,
    preset: Annotated[
        str, typer.Option(help="Start: ailora, reailora, pissa, milora or lora.")
    ] = "ailora",
    published: Annotated[
        bool,
        typer.Option("--published", help="pissa, milora: the layers of their papers, not q and v."),
    ] = False,
    anchored: Annotated[
        bool,
        typer.Option(
            "--anchored",
            help="Write only an adapter, for ailora.load_adapter: the model stays, so that DPO "
            "and KTO have their reference.",
        ),
    ] = False,
    bake_rates: Annotated[
        bool,
        typer.Option(
            "--bake-rates", help="Put V's doubled rate into the factors, for any trainer."
        ),
    ] = False,
    tol: Annotated[
        float,
        typer.Option(help="Residual of the decompositions; larger is quicker, such as 1e-2."),
    ] = 1e-3,
    dtype: Annotated[
        str,
        typer.Option(help="Dtype of the changed weights; auto loses at most 1 % of B A."),
    ] = "auto",
    task_type: Annotated[
        str | None,
        typer.Option(help="PEFT task type, such as CAUSAL_LM. Default: from config.json."),
    ] = None,
    parts: Annotated[str | None, typer.Option(help=PARTS_HELP)] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Print layers, parameters and sizes, and stop.")
    ] = False,
) -> None:
    """Write a starting adapter, and the residual model to train it on, without loading the model.

    Any PEFT trainer then trains OUT/adapter on OUT/model; `ailora export --folded-base` makes the
    result a plain LoRA of the original model. OUT/README.md says which training needs more (DPO
    and KTO: the original as the reference). An interrupted run goes on when called again. With
    --plan it reads no weights and writes nothing: it says what it would do, and refuses what it
    would refuse.

    Example: `ailora init meta-llama/Llama-2-7b-hf --out start --bake-rates`
    """
    from ailora.adapters import AILoRAConfig, presets
    from ailora.cli.console import console, quiet_libraries, show, streaming
    from ailora.errors import UserError
    from ailora.offline import init_files, plan_files
    from ailora.pretrained import resolve

    if preset not in presets.__all__:
        raise UserError(f"--preset {preset!r}: must be one of {', '.join(sorted(presets.__all__))}")
    if published and preset not in ("pissa", "milora"):
        raise UserError(f"--published is for the presets pissa and milora, not {preset}")
    quiet_libraries()
    config: AILoRAConfig = getattr(presets, preset)(
        r=rank,
        anchored=anchored,
        bake_rates=bake_rates,
        tol=tol,
        task_type=task_type,
        parts=parse_parts(parts),
        **({"published": True} if published else {}),
    )
    if plan_only:
        with console.status("reading the headers"):
            plan = plan_files(resolve(model), out, config, dtype=dtype)
        show(plan_table(plan), whole=("role", "shape", "layers"), drop=("weights", "start"))
        for line in plan_lines(plan):
            console.print(line, soft_wrap=True, highlight=False)
        return
    with streaming() as on_progress:
        report = init_files(resolve(model), out, config, dtype=dtype, on_progress=on_progress)
    if report.folded:
        show(
            table(report),
            whole=("weight", "kept as", "lost"),
            drop=("would lose", "stored as", "role"),
        )
    for line in next_steps(report):
        console.print(line, soft_wrap=True)


def next_steps(report: InitReport) -> list[str]:
    """Where the files are, and what to do with them."""
    adapter = f"adapter: {report.adapter}"
    if report.model is None:
        call = f"ailora.load_adapter(model, {str(report.adapter)!r}, is_trainable=True)"
        return [
            adapter,
            f"load it with {call}",
            "a trainer that loads the folder itself trains its frozen half too: see its README.md",
        ]
    return [
        adapter,
        f"model to train it on: {report.model}",
        "afterwards: ailora export TRAINED --folded-base --out PLAIN",
        "for DPO, IPO or KTO name the original as ref_model, or take --anchored: see "
        f"{report.adapter.parent / 'README.md'}",
    ]


def table(report: InitReport) -> Table:
    """What rounding the changed weights cost, one row per weight."""
    from rich.table import Table

    found = Table(caption="lost: ||W - (W_r + s B A)|| / ||s B A||, by rounding W_r to the dtype")
    for title in ("weight", "role", "stored as", "would lose", "kept as", "lost"):
        found.add_column(title, overflow="fold")
    for line in report.folded:
        found.add_row(
            line.tensor.removesuffix(".weight"),
            line.roles,
            line.stored,
            f"{line.loss_stored:.1e}",
            line.dtype,
            f"{line.loss:.1e}",
        )
    return found


def plan_table(plan: InitPlan) -> Table:
    """What would be adapted, one row per role and shape."""
    from rich.table import Table

    found = Table()
    for title in ("modules", "role", "start", "shape", "layers"):
        found.add_column(title, overflow="fold")
    for title in ("weights", "rank", "trains"):
        found.add_column(title, justify="right")
    for one in plan.weights:
        shape = "{} x {}".format(*one.shape)
        numbers = (str(one.count), str(one.rank), f"{one.trained:,}")
        found.add_row(one.modules, one.role, one.init, shape, spans(one.layers), *numbers)
    return found


def plan_lines(plan: InitPlan) -> list[str]:
    """How many parameters would train, and what would lie on the disk."""
    from rich.filesize import decimal

    share = f"{100 * plan.trained / plan.parameters:.2g} %"
    head = f", {plan.head:,} of them the task's head" if plan.head else ""
    lines = [
        f"trains: {plan.trained:,} parameters ({share} of {plan.parameters:,}){head}",
        f"adapter: {decimal(plan.adapter)}",
    ]
    if plan.model is not None and plan.model_at_most is not None:
        wider = f", at most {decimal(plan.model_at_most)} if rounding would lose too much"
        more = wider if plan.model_at_most > plan.model else ""
        lines.append(f"residual model: {decimal(plan.model)}{more}")
    short = "" if plan.needed <= plan.free else ": too little"
    lines.append(f"disk: {decimal(plan.needed)} at most, {decimal(plan.free)} free{short}")
    return [*lines, "nothing was written"]


def spans(numbers: Sequence[int]) -> str:
    """Ascending numbers with their runs joined: ``0-3, 7``; ``shared`` for none."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs) or "shared"
