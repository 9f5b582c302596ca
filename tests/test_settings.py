"""A setting means what was written, in every YAML and JSON file that is read."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from gymnast_core.config import ArmConfig, SafetyConfig, StationConfig, dump_config, load_config
from gymnast_core.data.episode import read_header
from gymnast_core.errors import ConfigError, DataError, GymnastError
from gymnast_core.files import read_json, read_json_lines
from gymnast_core.plain_json import parse_json
from gymnast_core.robot.kinematics import JOINT_LOWER, JOINT_SPEED, JOINT_UPPER, forward_kinematics
from tests.machine import HANG_S

STATION = """name: lab
tasks:
  open: {instruction: open the drawer}
safety:
  command_timeout_s: 0.5
"""


@dataclass(frozen=True)
class Text:
    value: str = ""
    sizes: tuple[int, ...] = ()
    on: bool = False


def load(folder: Path, text: str, cls: type[Any] = StationConfig, name: str = "station.yaml") -> Any:
    (folder / name).write_bytes(text.encode())
    return load_config(cls, folder / name)


def refusal(folder: Path, text: str, cls: type[Any] = StationConfig) -> str:
    """The one line that refuses a file."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text, cls)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(folder / "station.yaml"))
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (STATION + "safety: {max_drift: 0.2}\n", "'safety' stands there twice (lines 4 and 6)"),
        (STATION + "  'command_timeout_s': 1\n", "'safety.command_timeout_s' stands there twice (lines 5 and 6)"),
        (STATION.replace("drawer}", "drawer, instruction: x}"), "'tasks.open.instruction' stands there twice (line 3)"),
        (STATION + "camera: &c {width: 64}\nmodels: {<<: *c}\n", "line 7: merge key '<<'"),
        (STATION + "---\n" + STATION, "line 6: a second document begins"),
        (STATION + "arm:\n\tcontrol_hz: 5\n", "line 7, column 1: found character that cannot start any token; indent"),
        (STATION + "name2: \0\n", "line 6: a control character"),
        (STATION + "arm: {control_hz: !!float 5}\n", "line 6: tag"),
        (STATION + "arm: {? [a] : 5}\n", "line 6: a key is a section or a list"),
        (STATION + "recorder: {min_free_mb: 010}\n", "line 6: 010 is a number to some"),
        (STATION + "recorder: {min_free_mb: 1:30}\n", "line 6: 1:30 is a number to some"),
        (STATION + "recorder: {min_free_mb: 1_000}\n", "line 6: 1_000 is a number to some"),
        (
            STATION + "arm: {control_hz: '5'}\n",
            "arm.control_hz: found '5'; needed a number alone, without quotes or unit",
        ),
        (STATION + "arm: {control_hz: true}\n", "arm.control_hz: found True; needed a number"),
        (STATION + "models: {compile_world_model: 2}\n", "compile_world_model: found 2; needed true or false"),
        (STATION + "  max_rotation: 30deg\n", "safety.max_rotation: found '30deg'; needed a number alone"),
        (STATION + "  workspace_min: [0.4, 0, 0]\n  workspace_max: [0.3, 0.1, 0.1]\n", "is not below workspace_max"),
        (STATION + "  max_drift: 0,1\n", "safety.max_drift: found '0,1'; needed a number alone"),
        (
            STATION + "recorder: {min_free_mb: 500,5}\n",
            "'recorder.5'; is this a decimal comma? write 0.4",
        ),
        ("", "found nothing, needed a mapping"),
        (STATION + "camera: {topic: 5}\n", "camera.topic: found 5"),
    ],
)
def test_what_hides_or_changes_a_setting_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(tmp_path, text)


def test_text_that_yaml_would_convert_stays_text(tmp_path: Path) -> None:
    for word in ("yes", "no", "on", "off", "y", "2024-01-01", "1.2.3", "22:80", "=", "'010'", "'1:30'"):
        assert load(tmp_path, f"value: {word}\n", Text).value == word.strip("'")
    assert load(tmp_path, "on: yes\nsizes: [0x10, 1e1]\n", Text) == Text(sizes=(16, 10), on=True)
    station = load(tmp_path, "\ufeff" + STATION.replace("open:", "no:").replace("0.5", "5e-1"))
    assert list(station.tasks) == ["no"] and station.safety.command_timeout_s == 0.5
    shared = "question: &q is it open\n    partial_credit_criteria: *q"
    station = load(tmp_path, f"name: lab\ntasks:\n  open:\n    instruction: open it\n    {shared}\n")
    assert station.tasks["open"].partial_credit_criteria == "is it open"


any_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
number_like = st.from_regex(r"[-+]?[0-9_:.eExob]{1,8}", fullmatch=True)


@example("\x85")
@example("a\u2028b\u2029")
@given(any_text | number_like)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    assert load(tmp_path_factory.mktemp("dump"), dump_config(Text(text)), Text) == Text(text)


BOMB = "x: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"x{i}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "name: lab\ntasks:\n" + "".join(f"  {line}\n" for line in BOMB.splitlines()) + "  y: *j\n",
        "tasks: &t {a: *t}\n",
        "x: &a [1]\n" + "".join(f"x{i}: &{'a' * (i + 2)} [*{'a' * (i + 1)}]\n" for i in range(400)),
        "[" * 1_000_000,
        "{a: " * 200_000,
        "- " * 500_000,
        "".join(" " * i + "a:\n" for i in range(1400)),
        "name: " + "x" * 50_000_000,
        "name: " + "1" * 1_000_000,
        "? " * 500_000,
        "a: 'x\n" * 170_000,
        "".join(f"k{i}: 1\n" for i in range(100_000)),
    ],
    ids="field tasks itself chain lists maps dashes indents giant digits keys quotes many".split(),  # noqa: SIM905
)
def test_a_hostile_file_is_refused_at_once_in_little_memory(tmp_path: Path, text: str) -> None:
    path = tmp_path / "station.yaml"
    path.write_text(text)
    code = (
        "import resource, sys, time\n"
        "from gymnast_core.config import StationConfig, load_config\n"
        "from gymnast_core.errors import ConfigError\n"
        "memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()\n"
        "try:\n    load_config(StationConfig, sys.argv[1])\n"
        "except ConfigError as error:\n    assert len(str(error)) < 700 and '\\n' not in str(error), error\n"
        "else:\n    sys.exit('it was read')\n"
        "print(time.process_time() - began, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    seconds, megabytes = map(float, done.stdout.split())
    assert seconds < 1.0 and megabytes < 100


@pytest.mark.parametrize(
    ("section", "field", "value", "said"),
    [
        ("safety", "max_translation", 50, "millimetres, which are 0.05 metres"),
        ("safety", "max_translation", 5, "centimetres, which are 0.05 metres"),
        ("safety", "max_rotation", 14.3, "degrees, which are 0.25 radians"),
        ("safety", "max_joint_speed", 180, "degrees a second, which are 3.14 radians a second"),
        ("safety", "max_drift", 100, "millimetres, which are 0.1 metres"),
        ("safety", "command_timeout_s", 400, "milliseconds, which are 0.4 seconds"),
        ("safety", "workspace_min", [126, -165, 22], "millimetres, which are 0.126 metres"),
        ("safety", "workspace_max", [0.364, 0.077, 164], "millimetres, which are 0.164 metres"),
        ("arm", "start_position", [25.8, 0, 0.19], "centimetres, which are 0.258 metres"),
        ("arm", "reset_seconds", 2000, "milliseconds, which are 2 seconds"),
        ("arm", "profile_velocity_ms", 0.25, "seconds, which are 250 milliseconds"),
        ("arm", "max_effort_ma", 1.5, "amperes, which are 1500 milliamperes"),
        ("arm", "driver_timeout_s", 3000, "milliseconds, which are 3 seconds"),
        ("camera", "max_age_s", 1000, "milliseconds, which are 1 seconds"),
        ("safety", "max_drift", 3, "(metres)"),
    ],
)
def test_a_value_in_another_unit_is_called_by_its_name(
    tmp_path: Path, section: str, field: str, value: Any, said: str
) -> None:
    content = {"name": "lab", "tasks": {"open": {"instruction": "open it"}}, section: {field: value}}
    line = refusal(tmp_path, yaml.safe_dump(content))
    assert f"{section}.{field}" in line and said in line


def test_every_field_that_protects_the_arm_is_bounded_by_what_the_arm_can_do(tmp_path: Path) -> None:
    corners = np.random.default_rng(0).uniform(JOINT_LOWER, JOINT_UPPER, (3000, 6))
    places = np.array([forward_kinematics(joints)[:3, 3] for joints in corners])
    assert np.abs(places[:, :2]).max() < 0.67 and places[:, 2].min() > -0.44 and places[:, 2].max() < 0.78
    assert pytest.approx(0.42, abs=0.01) == 0.2 * JOINT_SPEED * 0.67
    numbers = [("safety", f.name) for f in fields(SafetyConfig)]
    numbers += [("arm", f.name) for f in fields(ArmConfig) if type(f.default) in (int, float, tuple)]
    assert len(numbers) == 16
    for section, name in numbers:
        default = getattr(SafetyConfig() if section == "safety" else ArmConfig(), name)
        for bad in (1e6, float("inf"), float("nan")):
            value = [bad] * 3 if isinstance(default, tuple) else bad
            content = {"name": "lab", "tasks": {"open": {"instruction": "open it"}}, section: {name: value}}
            assert f"{section}.{name}" in refusal(tmp_path, yaml.safe_dump(content))


def test_a_name_that_stands_twice_in_a_json_file_is_refused_with_both_lines(tmp_path: Path) -> None:
    text = '{"a": "\\"b\\": {", "list": [{"b": 1}, {"b": 2}],\n"b": {"c": 1,\n"x": [],\n"\\u0063": 2}}'
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(GymnastError, match=re.escape("'c' stands there twice (lines 2 and 4)")):
        read_json(tmp_path / "config.json")
    assert parse_json('{"a": {"b": 1}, "b": {"a": 1}}') == {"a": {"b": 1}, "b": {"a": 1}}
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "step": 3}\n{"st')
    with pytest.raises(DataError, match=re.escape("metrics.jsonl:2: 'step' stands there twice (line 1)")):
        read_json_lines(tmp_path / "metrics.jsonl")
    header = {"format": "gymnast-episode", "version": 1, "instruction": "open"}
    (tmp_path / "episode.json").write_text(json.dumps(header)[:-1] + ',\n"success": true,\n"success": false}')
    with pytest.raises(DataError, match=re.escape("'success' stands there twice (lines 2 and 3)")):
        read_header(tmp_path)
    for hostile in ("[" * 1_000_000, '{"a":' * 1_000_000, "1" * 1_000_000, "\ufeff{}", '{"a": 1'):
        with pytest.raises(ValueError):
            parse_json(hostile)
