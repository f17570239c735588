"""``moceir app``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

import click

from moceir.commands.common import DEVICE, MODEL, THREADS, extra


@click.command()
@MODEL
@DEVICE
@THREADS
@click.option("--port", default=7860, show_default=True, type=click.IntRange(0, 65535))
def app(model: str | None, device: str | None, threads: int | None, port: int) -> None:
    """Restore images in a local web page, which only this computer can reach."""
    web = extra("moceir.web.app", "app")
    from moceir.inference.restorer import Restorer

    with web.listen(port) as server:  # before the network, which takes longer to load
        restorer = Restorer(model, device, "auto", threads)
        host, port = server.getsockname()
        click.echo(f"open http://{host}:{port}/ in a browser; Ctrl-C stops the server")
        web.serve(restorer, server)
