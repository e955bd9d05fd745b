"""`layerdiffuse-alpha jobs list | show | cancel | retry`: the jobs of a server."""

import json
import os
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console

from handler.cli import terminal
from handler.cli.api import Api
from handler.cli.sources import OWN_ENDPOINT
from handler.cli.terminal import Commands

JOBS = f"/v2/{OWN_ENDPOINT}"

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Lists, cancels and repeats jobs of a server. API_KEY is sent as its key.",
)

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Job ids.")]
Url = Annotated[str | None, typer.Option(help="Server URL.", show_default="http://127.0.0.1:PORT")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
console = Console(highlight=False, soft_wrap=True)


@app.command("list")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="Only jobs of this status, for example FAILED.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number of jobs.")] = 20,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Lists the jobs that were submitted last, newest first."""
    chosen = {} if status is None else {"status": status.upper()}
    with _api(url) as api:
        jobs = api.ask("GET", "/alpha/v1/jobs", limit=limit, **chosen)["jobs"]
    if as_json:
        typer.echo(json.dumps(jobs))
        return
    for job in jobs:
        submitted = datetime.fromtimestamp(job["created_s"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        is_over = job["started_s"] is not None and job["finished_s"] is not None
        seconds = f"{job['finished_s'] - job['started_s']:.1f} s" if is_over else ""
        facts = f"{job['id']:41}  {job['status']:11}  {submitted}  {seconds:>8}"
        console.print(f"{facts}  {job['error'] or job['prompt'] or ''}", markup=False)


@app.command()
def show(job_id: Annotated[str, typer.Argument(metavar="ID", help="Job id.")], url: Url = None) -> None:
    """Prints a job as JSON, without its picture."""
    with _api(url) as api:
        job = api.ask("GET", f"{JOBS}/status/{job_id}")
    typer.echo(json.dumps(job | {"output": _without_picture(job["output"])} if "output" in job else job, indent=2))


@app.command()
def cancel(job_ids: Ids, url: Url = None) -> None:
    """Cancels queued or running jobs; prints the status of each."""
    _for_each(job_ids, "cancel", url)


@app.command()
def retry(job_ids: Ids, url: Url = None) -> None:
    """Queues jobs again that have failed or timed out."""
    _for_each(job_ids, "retry", url)


def _for_each(job_ids: list[str], action: str, url: str | None) -> None:
    with _api(url) as api:
        for job_id in job_ids:
            console.print(f"{job_id} {api.ask('POST', f'{JOBS}/{action}/{job_id}')['status']}", markup=False)


def _api(url: str | None) -> Api:
    return Api(url or f"http://127.0.0.1:{terminal.settings().port}", os.environ.get("API_KEY"))


def _without_picture(output: Any) -> Any:
    """Returns the output without base64; `info`, which is JSON in a string, as an object."""
    if not isinstance(output, dict):
        return output
    kept = {name: value for name, value in output.items() if not (name == "image_base64" or _is_data(value))}
    return kept | {"info": json.loads(output["info"])} if "info" in output else kept


def _is_data(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("data:")
