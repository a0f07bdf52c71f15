"""Reading pictures back, and adaptations to draw, as the runner leaves them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.text import Text

from dgbench.leaderboard.plots._style import paper
from dgbench.record import SCHEMA, RunFolder, identity_hash


def texts(figure):
    """All that is written in a picture, without the labels of ticks beyond the ends of an axis."""
    with paper():
        figure.draw_without_rendering()  # labels of axes take their places
    hidden = set()
    for ax in figure.findobj(Axes):
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not (ax.axison and low - 1e-9 <= tick.get_loc() <= high + 1e-9):
                    hidden |= {tick.label1, tick.label2}
    return [
        text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip() and text not in hidden
    ]


def check_readable(figure):
    """Letters of 7 pt or more, all inside the picture, none over others.

    Raises:
        AssertionError: they are not.
    """
    boxes = [(text.get_text(), text.get_window_extent(), text.get_fontsize()) for text in texts(figure)]
    width, height = figure.bbox.width, figure.bbox.height
    assert [name for name, _, size in boxes if size < 7] == []
    outside = [n for n, b, _ in boxes if b.x0 < -1 or b.y0 < -1 or b.x1 > width + 1 or b.y1 > height + 1]
    assert outside == []
    over = [
        (a, b)
        for (a, x, _), (b, y, _) in itertools.combinations(boxes, 2)
        if x.x0 + 1 < y.x1 and y.x0 + 1 < x.x1 and x.y0 + 1 < y.y1 and y.y0 + 1 < x.y1
    ]
    assert over == []


def lines(ax, **wanted):
    """Points [(x, y)] of the lines of a panel that have these properties, e.g. marker="o"."""
    found = [line for line in ax.get_lines() if all(getattr(line, f"get_{k}")() == v for k, v in wanted.items())]
    return [list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in found]


def make_adaptation(
    runs_dir: Path, adapter: str, trial: int, blocks, *, status="complete", late=False, **columns
) -> None:
    """Write one adaptation.

    Args:
        runs_dir: where.
        adapter: its name.
        trial: of the source run.
        blocks: [(domain, examples per batch, right answers per batch or None)]; where the score is rmse, squared
            errors in their place.
        status: of the adaptation.
        late: whether it answers after its update.
        columns: instead of the standard ones.
    """
    said = {
        **{"dataset": "toy", "data": "data0", "dataset_domains": "a b c", "score": "accuracy", "train_domains": "c"},
        **{"val_domains": "", "test_domains": "a b", "protocol_key": "p", "network": "mlp", "norm": "batch"},
        **{"network_key": "n", "algorithm": "erm", "averaging": "none", "label": "", "variant": "", "tuned": ""},
        **{"draw": "d", "source_step": None, "stream": "continual", "stream_options": "", "stream_key": "s"},
        **{"batch_size": 4, "examples": None, "seed": 0, "trial_seed": trial, "data_seed": 0, "adapter": adapter},
        **columns,
    }
    folder = RunFolder(runs_dir / identity_hash(said))
    folder.create()
    identity = {"adapter": {"name": adapter, "version": 1, "hparams": {}}}
    facts = {"schema": SCHEMA, "kind": "adapt", "status": status, "columns": said, "seconds_per_batch": 0.1}
    facts["answers"] = "after" if late else "before"
    folder.write(**facts, run_id=identity_hash(said), identity=identity)
    position, text = 0, ""
    for domain, n, correct in blocks:
        name = "squared_error" if said["score"] == "rmse" else "correct"
        curve = {"domain": domain, "n": n, "seconds": [0.1] * len(n), **({} if correct is None else {name: correct})}
        where = {"step": position, "weights": "adapted", "phase": "stream", "round": 0, "position": position}
        line = {**where, "values": {}, "n": {f"stream/{domain}": sum(n)}, "curve": curve}
        text += json.dumps(line) + "\n"
        position += len(n)
    folder.lines_file.write_text(text)
