"""`gymnast data view`: episodes and imagined rollouts as a recording of Rerun, to be moved through step by step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from gymnast_core.data.formats import StoredEpisode, episodes_of, layouts
from gymnast_core.data.frames import encode_image, resize_frame
from gymnast_core.data.pictures import read_image
from gymnast_core.errors import ConfigError, DataError
from gymnast_core.evaluation.drawn_arm import FINGERS, Body, arm_model, joints_of_states
from gymnast_core.evaluation.logbook import entry_of, facts_of
from gymnast_core.evaluation.view_config import ViewConfig
from gymnast_core.files import user_path
from gymnast_core.progress import check_stop, interrupts, say
from gymnast_core.reporting.imagined_films import FILMS, FILMS_LOG, read_films

STEP = "step"
ACTIONS = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
JPEG = "image/jpeg"


def view(config: ViewConfig) -> int:
    """Write the recording, or open the viewer. Raises: ConfigError without Rerun; DataError where nothing is found."""
    rerun = _rerun()
    practices, rest = _apart(config.data)
    episodes = episodes_of(rest) if rest else []
    if not episodes and not practices:
        raise DataError(
            f"{', '.join(config.data)}: found neither an episode nor a practice with {FILMS_LOG}; needed {layouts()}"
        )
    out = Path(config.out or f"runs/data_view/{datetime.now():%Y%m%d_%H%M%S}.rrd")
    if not config.spawn and out.suffix != ".rrd":
        raise ConfigError(f"--out: found {out.name!r}, needed a name that ends in .rrd")
    recording = rerun.RecordingStream("gymnast")
    if config.spawn:
        recording.spawn()
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        recording.save(out)
    viewed = View(rerun, recording, config.size)
    with interrupts():
        for source in episodes[-config.most :]:
            viewed.episode(source)
        for folder in practices:
            viewed.practice(folder, config.most)
    recording.send_blueprint(viewed.blueprint())
    recording.flush()
    recording.disconnect()
    say("opened the viewer" if config.spawn else f"wrote {out}; open it by: rerun {out}")
    return 0


class View:
    """Logs into one recording. Every episode and rollout has a name of its own, and begins at step 0."""

    def __init__(self, rerun: Any, recording: Any, size: int) -> None:
        self._rerun, self._recording, self._size = rerun, recording, size
        self.names: list[str] = []

    def episode(self, source: StoredEpisode) -> None:
        """Pictures, actions, the measured arm, and what is known of an episode; what cannot be read is left out."""
        name = self._name(source.name)
        try:
            facts = facts_of(source, entry_of(source))
            steps = source.bridge_steps()
        except DataError as error:
            say(f"warning: left out: {source.path}: {error}", "yellow")
            return
        self.names.append(name)
        self._text(f"{name}/facts", "\n".join(f"- **{label}**: {value}" for label, value in facts))
        try:
            for number, frame in enumerate(source.frames(self._size)):
                check_stop()
                self._at(number)
                self._picture(f"{name}/camera", frame)
        except DataError as error:
            say(f"warning: {source.path}: {error}", "yellow")
        if steps is not None:
            self._actions(name, "commanded", steps.actions)
            self._actions(name, "executed", steps.executed)
            self._arm(name, steps.states)

    def practice(self, folder: Path, most: int) -> None:
        """The films that a practice kept, each with verdict and meters."""
        for line in read_films(folder)[-most:]:
            check_stop()
            name = self._name(f"imagined_{line.get('number', len(self.names))}_{line.get('verdict', '')}")
            try:
                strip = read_image(folder / FILMS / line["film"])
            except DataError as error:
                say(f"warning: left out: {error}", "yellow")
                continue
            self.names.append(name)
            told = {key: line.get(key) for key in ("verdict", "score", "confidence", "reason", "phase", "update")}
            told |= {"instruction": line.get("instruction"), "practice": folder.name}
            self._text(f"{name}/facts", "\n".join(f"- **{label}**: {value}" for label, value in told.items()))
            side = strip.shape[0]
            for number in range(strip.shape[1] // side):
                self._at(number)
                self._picture(f"{name}/camera", strip[:, number * side : (number + 1) * side])
            meters = line.get("meters")
            for meter, value in (meters if isinstance(meters, dict) else {}).items():
                self._recording.log(f"{name}/meters/{_plain(meter)}", self._rerun.Scalars(float(value)), static=True)

    def blueprint(self) -> Any:
        """Pictures and arm beside each other, actions below, facts in a tab of their own."""
        views = self._rerun.blueprint
        tabs = [
            views.Vertical(
                views.Horizontal(
                    views.Spatial2DView(origin=f"{name}/camera", name="camera"),
                    views.Spatial3DView(origin=f"{name}/arm", name="arm"),
                    views.TextDocumentView(origin=f"{name}/facts", name="facts"),
                ),
                views.TimeSeriesView(origin=f"{name}/action", name="actions"),
                name=name,
                row_shares=[2, 1],
            )
            for name in self.names
        ]
        return views.Blueprint(views.Tabs(*tabs))

    def _actions(self, name: str, kind: str, actions: np.ndarray) -> None:
        """(T, 7): a line for each number; metres, radians, and the gripper's opening."""
        place = f"{name}/action/{kind}"
        self._recording.log(place, self._rerun.SeriesLines(names=[f"{kind} {axis}" for axis in ACTIONS]), static=True)
        for number, action in enumerate(actions):
            if np.isfinite(action).all():
                self._at(number)
                self._recording.log(place, self._rerun.Scalars([float(value) for value in action]))

    def _arm(self, name: str, states: np.ndarray) -> None:
        """The arm of the MJCF at joints that bring it to the measured poses (T + 1, 7), and the way it took."""
        model, rerun = arm_model(), self._rerun
        joints = joints_of_states(states)
        if all(one is None for one in joints):
            return
        for body in model.bodies:
            self._shapes(f"{name}/arm/{body.path}", body)
        way = [tuple(map(float, state[:3])) for state, one in zip(states, joints) if one is not None]
        self._recording.log(f"{name}/arm/way", rerun.LineStrips3D([way], colors=[[74, 144, 226]]), static=True)
        for number, (state, one) in enumerate(zip(states, joints)):
            if one is None:
                continue
            self._at(number)
            opening = float(state[6]) if np.isfinite(state[6]) else 1.0
            values = model.joints(one, opening)
            for body in model.bodies:
                if body.joint:
                    self._recording.log(f"{name}/arm/{body.path}", self._moved(body, values[body.joint]))

    def _shapes(self, place: str, body: Body) -> None:
        """A body's shapes, which move with it; where a joint moves it, its place is logged at each step."""
        if not body.joint:
            self._recording.log(place, self._rerun.Transform3D(translation=body.position), static=True)
        for number, shape in enumerate(body.shapes):
            if shape.kind == "cylinder":
                drawn = self._rerun.Cylinders3D(
                    lengths=[2 * shape.half[1]], radii=[shape.half[0]], centers=[shape.centre],
                    colors=[shape.colour], fill_mode="solid",
                )  # fmt: skip
            else:
                drawn = self._rerun.Boxes3D(
                    half_sizes=[shape.half], centers=[shape.centre], colors=[shape.colour], fill_mode="solid"
                )
            self._recording.log(f"{place}/shape_{number}", drawn, static=True)

    def _moved(self, body: Body, value: float) -> Any:
        if body.joint in FINGERS:
            shift = np.array(body.position) + value * np.array(body.axis)
            return self._rerun.Transform3D(translation=shift)
        turn = self._rerun.RotationAxisAngle(axis=body.axis, radians=value)
        return self._rerun.Transform3D(translation=body.position, rotation=turn)

    def _picture(self, place: str, frame: np.ndarray) -> None:
        if max(frame.shape[:2]) > self._size:
            frame = resize_frame(frame, self._size)
        content = encode_image(np.ascontiguousarray(frame), ".jpg")
        self._recording.log(place, self._rerun.EncodedImage(contents=content, media_type=JPEG))

    def _text(self, place: str, text: str) -> None:
        self._recording.log(place, self._rerun.TextDocument(text, media_type="text/markdown"), static=True)

    def _at(self, number: int) -> None:
        self._recording.set_time(STEP, sequence=number)

    def _name(self, wanted: str) -> str:
        """A name that no other has."""
        plain = _plain(wanted)
        return plain if plain not in self.names else f"{plain}_{len(self.names)}"


def _apart(paths: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Practices' run folders, and the other paths."""
    practices = [user_path(path) for path in paths if (user_path(path) / FILMS_LOG).is_file()]
    return practices, [path for path in paths if user_path(path) not in practices]


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text)[-100:] or "episode"


def _rerun() -> Any:
    """Raises: ConfigError where it is not installed."""
    try:
        import rerun
        import rerun.blueprint
    except ImportError as error:
        raise ConfigError(
            "`gymnast data view` needs the Python package 'rerun-sdk'; install it by: pip install 'gymnast[view]'"
        ) from error
    return rerun
