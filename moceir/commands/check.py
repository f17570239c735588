"""``moceir check``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

from typing import TYPE_CHECKING

import click

from moceir.commands.common import DEVICE
from moceir.config import PRECISIONS

if TYPE_CHECKING:
    from moceir.evaluation.check import Finding


@click.command()
@click.argument("operators", nargs=-1, metavar="[OPERATORS]...")
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(PRECISIONS),
    multiple=True,
    help="Precision of the activations; may be repeated. Default: float32, and on a GPU bfloat16.",
)
@DEVICE
def check(operators: tuple[str, ...], precisions: tuple[str, ...], device: str | None) -> None:
    """Check that the kernels compute the right numbers on this machine.

    Restores random images with a small network, forward and backward, with each operator (or the
    given OPERATORS) run by each of its kernels in turn, and compares the results with those of
    plain PyTorch. Takes a few minutes. The exit status is 1 if a result is wrong.
    """
    from moceir.evaluation.check import check_kernels, remedy
    from moceir.inference.memory import find_device

    where = find_device(device)
    if not precisions:
        precisions = ("float32", "bfloat16") if where.type == "cuda" else ("float32",)
    found: list[Finding] = []
    for finding in check_kernels(where, precisions, operators):
        if not found:
            click.echo(
                _row("operator", "backend", "precision", "case", "error", "of what is allowed")
            )
        found.append(finding)
        click.echo(_described(finding))
    if not any(f.backend != "default" for f in found):
        raise click.ClickException(
            f"no kernels run on {where}, so there is nothing to check: moceir info says why"
        )
    if problem := remedy(found):
        raise click.ClickException(problem)
    click.echo(f"\nAll {len(found)} results are right.")


def _row(*words: str) -> str:
    operator, backend, precision, case, error, share = words
    return f"{operator:<26}{backend:<9}{precision:<10}{case:<13}{error:>8}  {share}"


def _described(f: Finding) -> str:
    names = f.operator, f.backend, f.precision, f.case
    if f.problem is not None:
        return _row(*names, "", f"FAILED: {f.problem}")
    share = f"{f.share:.0%}" if f.share < 100 else f"{f.share:.0f} times"
    return _row(*names, f"{f.error:.1e}", f"{'' if f.right else 'WRONG: '}{share}, {f.worst}")
