"""The page: its tabs for a model, and a server that leaves nothing behind and calls nobody."""

from __future__ import annotations

import errno
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

from cascade.web.limits import Limits
from cascade.web.model import Model
from cascade.web.uploads import MEGABYTES
from stages import InputError

WAITING = 24  # requests in the queue; more are told to come back
SESSIONS = 64  # users whose samples are remembered
PORTS = range(7860, 7880)  # tried one after the other where none is named
PARTING = 10  # seconds that the end waits for nets that run
LOCAL = "127.0.0.1"


def build(model: Model) -> Any:
    """The page of a model, a `gradio.Blocks`; tabs that it cannot fill are left out."""
    import gradio as gr

    from cascade.web.tabs.draw import draw_tab
    from cascade.web.tabs.enlarge import enlarge_tab
    from cascade.web.tabs.explore import explore_tab
    from cascade.web.tabs.score import score_tab

    with gr.Blocks(
        title=f"CSRFlow: {model.name}", analytics_enabled=False, delete_cache=(600, 3600),
        fill_width=True,
    ) as page:  # fmt: skip
        gr.Markdown("# CSRFlow")
        if model.cascade is not None:
            with gr.Tab("Draw"):
                draw_tab(model, model.cascade)
            with gr.Tab("Explore"):
                explore_tab(model, model.cascade)
            with gr.Tab("Score"):
                score_tab(model, model.cascade)
        if model.doublers:
            with gr.Tab("Enlarge"):
                enlarge_tab(model)
    page.queue(max_size=WAITING, default_concurrency_limit=1, api_open=False)
    return page


def serve(
    model: Model,
    host: str = LOCAL,
    port: int | None = None,
    browser: bool = False,
    ready: Callable[[str], None] = print,
) -> None:
    """Show the page of a model until Ctrl-C, SIGTERM, or its terminal is closed.

    Args:
        model: what is shown.
        host: the address to listen at; ``0.0.0.0`` lets other machines in.
        port: to listen at, the first free one from 7860 on if None.
        browser: whether a browser is opened.
        ready: told the page's address.

    Raises:
        InputError: Gradio is missing, the port is taken, or the address is not this machine's.
    """
    port = free_port(host, port)
    with alone(host) as folder, ending() as done:
        try:
            import gradio as gr
            from starlette.middleware import Middleware
        except ImportError:
            raise InputError("the page needs Gradio: pip install 'csrflow[web]'") from None
        fonts = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
        page = build(model)
        limited = {"middleware": [Middleware(Limits, folder=folder)]}
        try:
            page.launch(
                server_name=host, server_port=port, inbrowser=browser, quiet=True, share=False,
                prevent_thread_lock=True, ssr_mode=False, footer_links=[], run_history=False,
                max_file_size=f"{MEGABYTES}mb", state_session_capacity=SESSIONS, pwa=False,
                mcp_server=False, app_kwargs=limited,
                theme=gr.themes.Default(font=fonts[0], font_mono=fonts[1]),
            )  # fmt: skip
            ready(f"http://{host}:{port}")
            while not done.wait(timeout=1):  # or Windows would not hear of Ctrl-C
                pass
        finally:
            page.close(verbose=False)
            if model.lock.acquire(timeout=PARTING):  # nets that run as a process ends abort it
                model.lock.release()


def free_port(host: str, port: int | None) -> int:
    """The port, or the first free one of `PORTS`; `InputError` where it cannot be listened at.

    ``host`` is a name or an IPv4 address of this machine.
    """
    for number in PORTS if port is None else [port]:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((host, number))
            except OverflowError:
                continue
            except OSError as error:
                if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                    raise InputError(
                        f"this machine has no address {host}: name one, as IPv4 has it, with --host"
                    ) from None
                continue
            return trial.getsockname()[1]
    named = f"{PORTS[0]} to {PORTS[-1]}" if port is None else f"port {port}"
    raise InputError(f"cannot listen at {named} of {host}: name a free one with --port")


@contextmanager
def ending() -> Iterator[Event]:
    """An event that is set as SIGTERM comes, or SIGHUP where nohup does not have it ignored."""
    done, numbers = Event(), [signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)  # which Windows does not have
    before = {number: signal.signal(number, lambda *_: done.set()) for number in numbers}
    try:
        yield done
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def alone(host: str = LOCAL) -> Iterator[str]:
    """Keep temporary files in a folder that goes at the end, and have Gradio call nobody.

    As it starts, it asks the server at ``host`` whether it answers, which no proxy can tell. Gradio
    reads these settings as it is imported, so import it inside.
    """
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="csrflow-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder
        os.environ["GRADIO_TEMP_DIR"] = os.environ["MPLCONFIGDIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        for name in ("NO_PROXY", "no_proxy"):
            others = os.environ.get(name)
            os.environ[name] = ",".join(filter(None, [others, LOCAL, "localhost", host]))
        try:
            yield folder
        finally:
            tempfile.tempdir = before
