"""``moceir app``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

import click


@click.command()
@click.option("-m", "--model", help="Bundled name, folder, weights file or published checkpoint.")
@click.option(
    "--device", help="Torch device, such as cpu or cuda:0. Default: a GPU if there is one."
)
@click.option("--port", default=7860, show_default=True, type=click.IntRange(0, 65535))
def app(model: str | None, device: str | None, port: int) -> None:
    """Restore pictures in a web page on this computer, which no other computer can reach."""
    try:
        from moceir.web.app import listen, serve
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is missing: pip install 'moceir[app]'") from error
    from moceir.inference.restorer import Restorer

    with listen(port) as server:  # before the network, which takes longer to load
        restorer = Restorer(model, device)
        host, port = server.getsockname()
        click.echo(f"open http://{host}:{port}/ in a browser; Ctrl-C stops")
        serve(restorer, server)
