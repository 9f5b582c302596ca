"""`gymnast data label`: a person says what became of logged episodes, in the terminal or on a local page."""

from __future__ import annotations

import getpass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gymnast_core.commands import gymnast, name_next
from gymnast_core.config import find_model
from gymnast_core.data.logged_by import station_file_of
from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.labelling import Labelling
from gymnast_core.progress import say
from gymnast_core.serve.label_config import LabelConfig
from gymnast_core.serve.label_page import serve_page
from gymnast_core.serve.label_terminal import label_in_terminal
from gymnast_core.station_file import find_station_file

if TYPE_CHECKING:
    from gymnast_core.protocols import Judge


def label(config: LabelConfig) -> int:
    """Label until all episodes have a label or the person leaves; returns 0.

    Raises: DataError (no episode that can be labelled, a label cannot be written, a line of input that is none),
        ConfigError, CheckpointError, JudgeError (the judge).
    """
    session = Labelling(config.data, _judge(config), config.who or _login())
    total, left = len(session.episodes), len(session.left)
    say(f"{total} episodes, {total - left} of them labelled")
    if config.page:
        serve_page(session, config.port)
    elif left or config.again:
        label_in_terminal(session, config.again)
    left = len(session.left)
    say(f"{total - left} of {total} episodes labelled")
    for line in session.agreement():
        say(line)
    if left:
        name_next(gymnast("data label", data=config.data, page=config.page, config=config.config, judge=config.judge))
    else:
        station = station_file_of(config.data)
        name = station.stem if station is not None else "labelled"
        name_next(gymnast("judge train", data=config.data, out=Path("runs/judge") / name))
    return 0


def _judge(config: LabelConfig) -> Judge | None:
    """The judge that is asked to look. Raises: ConfigError, CheckpointError, JudgeError."""
    if not config.config and not config.judge:
        return None
    if not config.config:  # a learned judge needs no station
        from gymnast_core.reward.classifier import load_classifier

        return load_classifier(find_model(config.judge))
    from gymnast_core.reward.factory import load_judge
    from gymnast_core.station_file import open_station

    station = open_station(str(find_station_file(config.config)), judge=config.judge)
    if station.config.judge.kind == "truth":
        raise ConfigError(f"{station.path}: judge.kind: found truth, which sees no frames; needed another judge")
    answers = Path("runs/label") / f"{datetime.now():%Y%m%d_%H%M%S}"
    answers.mkdir(parents=True, exist_ok=True)
    return load_judge(station.config, station.path, answers)


def _login() -> str:
    """The name that this person is logged in with; empty where the system does not say."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""
