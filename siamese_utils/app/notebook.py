"""The drawing page inside a notebook, or pictures of it where nobody watches."""

from __future__ import annotations

import sys
from pathlib import Path

from siamese_utils.app.drawing import DrawingModel
from siamese_utils.app.server import DrawingServer, default_checkpoint
from siamese_utils.errors import MissingPackageError
from siamese_utils.system import project

_SCREENSHOTS = ("08_draw_pairs", "08_draw_symbols")
_shown: list[DrawingServer] = []  # the server of this notebook, none or one


def show_in_notebook(checkpoint: Path | None = None, height: int = 900) -> DrawingServer | None:
    """Show the page inside JupyterLab, Notebook, VS Code or Colab, without blocking the notebook.

    Where nobody watches (a notebook executed by a program) it shows the stored pictures of the page instead and
    starts nothing. Called again, it stops the server of the first call; so does :func:`stop_in_notebook`.

    Args:
        checkpoint: the encoder to use; ``None`` takes the stored one.
        height: of the frame, in pixels.

    Returns:
        the server, or ``None`` where it shows pictures.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or not made for drawings.
    """
    from IPython.display import HTML, IFrame, display

    if not _someone_watches():
        _show_screenshots(
            "A program executed this notebook, so here are pictures of the page; run the cell for the page itself."
        )
        return None
    stop_in_notebook()
    try:
        # Colab's own proxy stands in front, under a name of its own.
        colab = "google.colab" in sys.modules
        server = DrawingServer(DrawingModel.load(checkpoint or default_checkpoint()), any_name=colab)
    except MissingPackageError as error:
        _show_screenshots(str(error))
        return None
    _shown.append(server)
    if "google.colab" in sys.modules:
        from google.colab import output

        output.serve_kernel_port_as_iframe(server.port, height=str(height))
    else:
        display(IFrame(server.url, width="100%", height=height))
        display(
            HTML(
                f'<p>The page alone: <a href="{server.url}" target="_blank">{server.url}</a>. The frame stays empty '
                "if Jupyter runs on another machine than your browser; then run <code>python -m siamese_utils "
                "draw</code> on yours.</p>"
            )
        )
    return server


def stop_in_notebook() -> None:
    """Stop the server that ``show_in_notebook`` started, if there is one."""
    while _shown:
        _shown.pop().stop()


def _someone_watches() -> bool:
    """Whether the running cell came from a front end that a person could answer in."""
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return False
    # Programs such as nbclient say with each cell that nobody can be asked; front ends say the opposite.
    return "google.colab" in sys.modules or bool(kernel.get_parent("shell").get("content", {}).get("allow_stdin"))


def _show_screenshots(sentence: str) -> None:
    from IPython.display import Image, Markdown, display

    display(Markdown(sentence))
    folder = project.project_root() / "figures"
    for name in _SCREENSHOTS:
        picture, alt = (project.shown(folder / f"{name}{ending}") for ending in (".png", ".alt.txt"))
        if picture.is_file():
            text = alt.read_text(encoding="utf-8").strip() if alt.is_file() else "A picture of the drawing page."
            display(Image(data=picture.read_bytes(), format="png", alt=text, width=900))
