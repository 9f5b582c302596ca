"""`gymnast doctor`: what this machine has, what a station needs, and the remedy for everything that is missing.

Every check runs by itself and none can stop the others; those that load native libraries run in a process of their
own, so that a crash in a driver is a line in the table instead of the end of it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from gymnast_core.addresses import why_silent
from gymnast_core.config import PACKAGE_ROOT, StationConfig, find_model, load_config
from gymnast_core.doctor_fix import MAKE_SETUP, Command, install, run_fixes
from gymnast_core.errors import CheckpointError, ConfigError, JudgeError
from gymnast_core.policy.names import REMOTE
from gymnast_core.progress import progress_bar

Status = Literal["ok", "missing", "optional"]
TROSSEN_PORT = 50001
CONTROLLER_S = 2.0
SERIAL_DEVICE = Path("/dev/ttyDXL")
CAMERA_S = 5.0
"""How long a picture of the camera is waited for."""
SETUP = "run `make setup` in the repository, or `pip install -e '.[full]'` for the library without ROS"
INTERFACES = ("gymnast_msgs", "interbotix_xs_msgs")

RENDER = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><geom type="sphere" size="0.2" rgba="1 1 1 1"/></worldbody></mujoco>'
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 48, 64)
renderer.update_scene(data)
picture = renderer.render()
renderer.close()
assert picture.max() > 0, "the picture is black"
"""


@dataclass(frozen=True)
class DoctorConfig:
    """Check this machine; exit code 1 if something needed is missing."""

    config: str = ""
    """Station file, or the name of a shipped one: its models, arm and judge are checked too."""
    core: bool = False
    """Check only what the library needs without ROS and without a station."""
    fix: bool = False
    """Install what is missing, where a command can, and check again. `make setup` asks for sudo where it needs it."""
    json: bool = False
    """Print the findings as JSON."""


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    status: "missing" makes the exit code 1; "optional" is missing too, but nothing asked for here needs it.
    detail: what was found, one line.
    remedy: how to get it; empty when status is "ok".
    fix: the command that does it, run from the repository; empty where a person must.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""
    fix: Command = ()


def doctor(config: DoctorConfig) -> int:
    """Print the table of checks; returns 0, or 1 when something needed is missing.

    Raises: ConfigError when the station file is wrong.
    """
    findings = examine(config)
    if config.fix and any(finding.remedy for finding in findings):
        if not config.json:
            _print(findings)
        if run_fixes([finding.fix for finding in findings if finding.status != "ok"]):
            findings = examine(config)
    if config.json:
        print(json.dumps({"findings": [dataclasses.asdict(finding) for finding in findings]}))
    else:
        _print(findings)
    return 1 if any(finding.status == "missing" for finding in findings) else 0


PACKAGES = (
    ("openai", "judging with a vision-language model"),
    ("peft", "adapters: practice, and acting with what it made"),
    ("diffusers", "the Stable Diffusion 3 autoencoder"),
    ("mcap", "episode logs"),
    ("rosbags", "bags that others recorded"),
    ("google-crc32c", "RLDS data sets"),
    ("pyarrow", "LeRobot data sets"),
    ("fastapi", "gymnast serve and gymnast queue serve"),
    ("msgpack", "gymnast serve, and policy servers at ws://"),
)
"""What gymnast imports where it is needed, and for what."""


def examine(config: DoctorConfig) -> list[Finding]:
    """Run every check that `config` asks for.

    Raises: ConfigError when the station file is wrong.
    """
    station: StationConfig | None = None
    path: Path | None = None
    if config.config:
        from gymnast_core.station_file import find_station_file

        path = find_station_file(config.config)
        station = load_config(StationConfig, path)

    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("Python", check_python),
        ("torch", check_torch),
        ("OpenCV", check_opencv),
        ("disk space", check_disk),
    ]
    checks += [(name, partial(check_package, name, reason)) for name, reason in PACKAGES]
    if not config.core:
        simulated = station is None or station.simulation is not None
        checks += [
            ("MuJoCo", partial(check_mujoco, simulated)),
            ("ROS 2", check_ros),
            ("ROS interfaces", check_interfaces),
            ("ROS nodes", check_nodes),
            ("ros2 launch", check_launch),
        ]
    if station is None:
        checks.append(("shipped models", check_shipped_models))
    else:
        assert path is not None
        checks.append(("models", partial(check_models, station, path)))
        checks.append(("judge", partial(check_judge, station)))
        if station.simulation is None and not config.core:
            if station.arm.is_direct:
                checks.append(("arm", partial(check_controller, station)))
                checks.append(("arm driver", partial(check_driver_class, station)))
            else:
                checks.append(("arm", check_serial_device))
                checks.append(("arm driver", check_driver))
            if station.arm.driver == "xs_modules":
                checks.append(("arm's Python API", check_vendor_api))
            checks.append(("ROS graph", partial(check_speakers, path)))
        if station.simulation is not None and not config.core:
            checks.append(("arm", partial(check_simulated_arm, station)))
        checks.append(("arm's reach", partial(check_reach, station)))
        if station.camera.source == "device":
            checks.append(("camera", partial(check_camera, station, path)))

    findings = []
    with progress_bar() as bar:
        row = bar.add_task("checking this machine", total=len(checks), note="")
        for name, check in checks:
            bar.update(row, note=name)
            findings.append(_find(name, check))
            bar.update(row, advance=1, note="")
    return findings


def _find(name: str, check: Callable[[], Finding]) -> Finding:
    """What a check finds; one that fails in an unforeseen way is a finding, not a crash."""
    try:
        return check()
    except Exception as error:
        return Finding(name, "missing", _one_line(f"{type(error).__name__}: {error}"), SETUP, MAKE_SETUP)


def check_python() -> Finding:
    """Python 3.10 to 3.13."""
    found = f"{platform.python_version()} ({sys.executable})"
    if (3, 10) <= sys.version_info[:2] <= (3, 13):
        return Finding("Python", "ok", found)
    return Finding("Python", "missing", found, "install Python 3.10 to 3.13, remove .venv and run `make setup`")


def check_torch() -> Finding:
    """torch imports and computes."""
    code = (
        "import torch; torch.ones(2, 2) @ torch.ones(2, 2);"
        "gpu = torch.cuda.is_available() and torch.cuda.get_device_name(0);"
        "print(torch.__version__, f'on {gpu}' if gpu else 'on the CPU')"
    )
    worked, output = _run_python(code)
    if worked:
        return Finding("torch", "ok", output)
    return Finding("torch", "missing", output, SETUP, MAKE_SETUP)


def check_opencv() -> Finding:
    """OpenCV imports; it needs two system libraries that servers often lack."""
    worked, output = _run_python("import cv2; print(cv2.__version__)")
    if worked:
        return Finding("OpenCV", "ok", output)
    remedy = SETUP
    if "libGL" in output or "libgthread" in output or "libglib" in output:
        remedy = "sudo apt-get install libgl1 libglib2.0-0"
    return Finding("OpenCV", "missing", output, remedy, MAKE_SETUP)


def check_package(name: str, reason: str) -> Finding:
    """A Python package that one part of gymnast needs."""
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        told = f"not installed; needed for {reason}"
        return Finding(name, "optional", told, "pip install -e '.[full]'", install("full"))


def check_mujoco(needed: bool) -> Finding:
    """MuJoCo is there and draws without a screen."""
    absent: Status = "missing" if needed else "optional"
    if importlib.util.find_spec("mujoco") is None:
        return Finding("MuJoCo", absent, "not installed", "pip install -e '.[station]'", install("station"))
    chosen = os.environ.get("MUJOCO_GL")
    tried = []
    for backend in (chosen,) if chosen else ("egl", "osmesa"):
        worked, output = _run_python(RENDER, MUJOCO_GL=str(backend))
        if worked:
            return Finding("MuJoCo", "ok", f"{version('mujoco')}, draws without a screen ({backend})")
        tried.append(f"{backend}: {output}")
    remedy = "sudo apt-get install libegl1 libegl-mesa0 libosmesa6"
    if chosen:
        remedy += ", or unset MUJOCO_GL"
    return Finding("MuJoCo", absent, "cannot draw without a screen; " + "; ".join(tried), remedy)


def check_ros() -> Finding:
    """A sourced ROS 2, or the wheels."""
    distribution = os.environ.get("ROS_DISTRO", "")
    worked, output = _run_python("import rclpy; print(rclpy.__file__)")
    if worked:
        if distribution:
            tested = "" if distribution in ("humble", "jazzy") else ", not one of those this was written for"
            return Finding("ROS 2", "ok", f"{distribution}, sourced{tested}")
        try:
            return Finding("ROS 2", "ok", f"wheels, rclpy {version('ros-rclpy')}")
        except PackageNotFoundError:
            return Finding("ROS 2", "ok", output)
    installed = [path for path in ("/opt/ros/jazzy", "/opt/ros/humble") if Path(path).is_dir()]
    if distribution:
        remedy = "this Python is not the one of the sourced ROS 2: remove .venv and run `make setup` in this shell"
    elif installed:
        remedy = f"source {installed[0]}/setup.bash and run `make setup`"
    else:
        remedy = "run `make setup`, which installs ROS 2 as wheels, or install ROS 2 Jazzy or Humble and source it"
    return Finding("ROS 2", "missing", output, remedy, () if distribution or installed else MAKE_SETUP)


def check_interfaces() -> Finding:
    """The message packages are built for this Python."""
    code = (
        "import gymnast_msgs.action, gymnast_msgs.srv, interbotix_xs_msgs.srv; from gymnast_msgs.msg import ArmState;"
    )
    # Creating a message loads its compiled part, which an import alone does not.
    worked, output = _run_python(code + "ArmState.__class__.__import_type_support__()")
    if worked:
        return Finding("ROS interfaces", "ok", ", ".join(INTERFACES))
    return Finding(
        "ROS interfaces",
        "missing",
        output,
        "run `make setup`, then `source tools/env.sh`; in a workspace of your own: colcon build, then source its setup",
        MAKE_SETUP,
    )


def check_nodes() -> Finding:
    """The nodes can be started by name."""
    from gymnast_core.graph import OPTIONAL, NodeDescription, find_executable

    try:
        commands = [find_executable(NodeDescription("gymnast_nodes", name, name)) for name in OPTIONAL]
    except ConfigError as error:
        return Finding("ROS nodes", "missing", _one_line(str(error)), "source tools/env.sh after `make setup`")
    where = sorted({str(Path(command[-1]).parent) if len(command) == 1 else "this Python" for command in commands})
    return Finding("ROS nodes", "ok", f"{len(commands)} nodes in {', '.join(where)}")


def check_launch() -> Finding:
    """`ros2 launch` is a convenience: `gymnast up` starts the same graph."""
    # Not `launch`: from the repository root that name is the project's own folder.
    if importlib.util.find_spec("launch_ros") is not None:
        return Finding("ros2 launch", "ok", "launch_ros found")
    return Finding(
        "ros2 launch",
        "optional",
        "launch_ros is not installed (it comes with a ROS 2 installation only)",
        "use `gymnast up`, which starts the same graph",
    )


def check_disk(folder: Path | None = None) -> Finding:
    """Room for runs: checkpoints, episodes, reports."""
    where = (folder or Path.cwd()).resolve()
    free = shutil.disk_usage(where).free / 1e9
    if free >= 2:
        return Finding("disk space", "ok", f"{free:.0f} GB free in {where}")
    return Finding("disk space", "missing", f"{free:.1f} GB free in {where}", "free at least 2 GB for runs/")


def check_shipped_models() -> Finding:
    """The mini models that come with the package."""
    folder = PACKAGE_ROOT / "weights" / "mini"
    names = ("policy", "world_model", "world_model/autoencoder", "judge", "gate_judge")
    absent = [name for name in names if not any((folder / name).glob("*.safetensors"))]
    if broken := [words for name in names if (words := _broken_weights(folder / name))]:
        return Finding("shipped models", "missing", "; ".join(broken), "fetch or download these files again")
    if not absent:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        return Finding("shipped models", "ok", f"{', '.join(names)} ({size:.0f} MB)")
    return Finding(
        "shipped models",
        "missing",
        f"{', '.join(absent)} not in {folder}",
        "the checkout is incomplete; clone the repository again",
    )


def _broken_weights(folder: Path) -> str:
    """What is wrong with the weights files of a folder, from their heads; "" where there is nothing."""
    from gymnast_core.tensor_files import survey

    try:
        survey(sorted(folder.glob("*.safetensors")))
    except CheckpointError as error:
        return _one_line(str(error))
    return ""


def check_models(station: StationConfig, path: Path) -> Finding:
    """The checkpoints that a station file names."""
    absent = []
    names = {"policy": station.models.policy, "world_model": station.models.world_model}
    if station.models.autoencoder:
        names["autoencoder"] = station.models.autoencoder.removeprefix("sd3:")
    in_folders = ("classifier", "transformers")
    if station.judge.kind in in_folders:
        names["judge"] = station.judge.checkpoint
    gate_judge = station.adaptation.gate_judge
    if isinstance(gate_judge, str):
        names |= {"gate_judge": gate_judge} if gate_judge else {}
    elif gate_judge.kind in in_folders:
        names["gate_judge"] = gate_judge.checkpoint
    for role, name in names.items():
        try:
            if name.startswith(REMOTE):
                absent += [f"{role}: nobody answers at {name}: {why}"] if (why := why_silent(name)) else []
                continue
            if words := _broken_weights(find_model(name, path, network=False)):
                absent.append(f"{role}: {words}")
        except ConfigError as error:
            absent.append(f"{role}: {_one_line(str(error))}")
    if absent:
        return Finding("models", "missing", "; ".join(absent), f"put the checkpoints there, or correct {path}")
    return Finding("models", "ok", ", ".join(names.values()))


def check_judge(station: StationConfig) -> Finding:
    """The packages, keys and addresses of vision-language judges: the one that trains, and the gate's."""
    gate_judge = station.adaptation.gate_judge
    judges = [station.judge, *([] if isinstance(gate_judge, str) else [gate_judge])]
    if any(judge.kind == "transformers" for judge in judges) and importlib.util.find_spec("transformers") is None:
        remedy = "pip install -e '.[local-judge]'"
        return Finding("judge", "missing", "transformers is not installed", remedy, install("local-judge"))
    asked = [judge for judge in judges if judge.kind in ("vlm", "robometer")]
    if not asked:
        return Finding("judge", "ok", station.judge.kind)
    if importlib.util.find_spec("openai") is None:
        told = "the package openai is not installed"
        return Finding("judge", "missing", told, "pip install -e '.[vlm]'", install("vlm"))
    models = [judge for judge in asked if judge.kind == "vlm"]
    if not os.environ.get("OPENAI_API_KEY") and not all(judge.base_url for judge in models):
        return Finding("judge", "missing", "OPENAI_API_KEY is not set", "export OPENAI_API_KEY=...")
    from gymnast_core.reward.server import check_settings

    try:
        settings = [check_settings(judge) for judge in asked]
    except JudgeError as error:
        return Finding("judge", "missing", _one_line(str(error)), "correct that setting")
    for one in settings:
        if one.goes_to == urlsplit(one.address).hostname and (why := why_silent(one.address)):
            remedy = "start that server, or correct `base_url` of the judge in the station file"
            return Finding("judge", "missing", f"nobody answers at {one.address}: {why}", remedy)
    names = [judge.model if judge in models else judge.kind for judge in asked]
    return Finding("judge", "ok", ", ".join(f"{name} at {one.address}" for name, one in zip(names, settings)))


def check_serial_device() -> Finding:
    """The arm's USB adapter, under the name that the vendor's udev rule gives it."""
    if not SERIAL_DEVICE.exists():
        remedy = "connect and power the arm; install the vendor's udev rules (99-interbotix-udev.rules), replug"
        return Finding("arm", "missing", f"{SERIAL_DEVICE} is not there", remedy)
    if not os.access(SERIAL_DEVICE, os.R_OK | os.W_OK):
        remedy = "sudo usermod -aG dialout $USER, then log in again"
        return Finding("arm", "missing", f"no right to read and write {SERIAL_DEVICE}", remedy)
    return Finding("arm", "ok", str(SERIAL_DEVICE))


def check_reach(station: StationConfig) -> Finding:
    """The arm's description is read, and the arm reaches the station's start with the gripper pointing down."""
    from gymnast_core.errors import ConfigError
    from gymnast_core.robot.controller import BridgeController

    try:
        arm = BridgeController(station).model
    except ConfigError as error:
        return Finding("arm's reach", "missing", _one_line(str(error)), "correct the station file")
    place = ", ".join(f"{metres:g}" for metres in station.arm.start_position)
    return Finding("arm's reach", "ok", f"{arm.title} reaches its start at {place} m, gripper down")


def check_simulated_arm(station: StationConfig) -> Finding:
    """The arm's description is read, and its MuJoCo model can stand in the scene."""
    from gymnast_core.errors import GymnastError
    from gymnast_core.simulation.simulator import SimulatedStation

    try:
        arm = SimulatedStation(station).arm
    except GymnastError as error:
        found, _, remedy = _one_line(str(error)).partition("; ")
        return Finding("arm", "missing", found, remedy or "see docs/how-to/another_arm.md")
    return Finding("arm", "ok", f"{arm.title}, simulated")


def check_controller(station: StationConfig) -> Finding:
    """The arm's description is read, and its controller's address answers: an echo, for which any port will do."""
    import socket

    from gymnast_core.robot.arm_model import arm_model

    title = arm_model(station.arm.model).title
    address = station.arm.address
    if station.arm.driver != "trossen":
        return Finding("arm", "ok", f"{title}; its driver is yours, and whether it is connected is not looked at here")
    try:
        socket.create_connection((address, TROSSEN_PORT), CONTROLLER_S).close()
    except OSError as error:
        remedy = "power the arm, connect it, and put this machine into its network (ping it), or correct arm.address"
        return Finding("arm", "missing", f"{title} at {address}, port {TROSSEN_PORT}: {error}", remedy)
    return Finding("arm", "ok", f"{title}: something answers at {address}, port {TROSSEN_PORT}")


def check_driver_class(station: StationConfig) -> Finding:
    """The Python class that drives the arm, and what it is built on, can be imported, and takes this arm."""
    code = (
        "from gymnast_nodes.direct_driver import driver_class; from gymnast_core.config import ArmConfig; "
        f"print(driver_class({station.arm.driver!r})(ArmConfig(model={station.arm.model!r}, "
        f"driver={station.arm.driver!r}), print).__class__.__module__)"
    )
    worked, output = _run_python(code)
    if worked:
        return Finding("arm driver", "ok", f"{station.arm.driver} ({output})")
    remedy = "pip install trossen-arm" if station.arm.driver == "trossen" else "put its module on PYTHONPATH"
    return Finding("arm driver", "missing", output.removeprefix("gymnast_core.errors.ConfigError: "), remedy)


def check_driver() -> Finding:
    """The vendor's driver package; it may run on another machine of the same ROS domain."""
    from gymnast_core.station_file import ament_prefixes

    prefixes = ament_prefixes("interbotix_xs_sdk")
    if prefixes:
        return Finding("arm driver", "ok", f"interbotix_xs_sdk in {prefixes[0]}")
    return Finding(
        "arm driver",
        "missing",
        "interbotix_xs_sdk is not in AMENT_PREFIX_PATH",
        "install the vendor's workspace and source its setup.bash",
    )


def check_vendor_api() -> Finding:
    """The vendor's Python API, which `arm.driver: xs_modules` goes through."""
    name = "arm's Python API"
    worked, output = _run_python("from interbotix_xs_modules.xs_robot import arm; print(arm.__file__)")
    if worked:
        return Finding(name, "ok", output)
    remedy = "source the vendor's workspace (docs/how-to/vendor_stack.md), or set arm.driver: xs_sdk"
    return Finding(name, "missing", output, remedy)


def check_camera(station: StationConfig, path: Path) -> Finding:
    """The camera that the station opens itself gives a picture of the station's size, with the settings of its file."""
    from gymnast_core.errors import StationError
    from gymnast_core.evaluation.camera_check import device_picture

    try:
        live = device_picture(station.camera, path.parent, CAMERA_S)
    except StationError as error:
        found, _, remedy = _one_line(str(error).removeprefix("camera: ")).partition("; ")
        return Finding("camera", "missing", found, remedy or "see docs/how-to/camera.md")
    size = f"{station.camera.width}x{station.camera.height} pixels"
    return Finding("camera", "ok", "; ".join((live.source, size, *live.notes)))


def check_speakers(path: Path) -> Finding:
    """Driver and camera as they are in the ROS graph now: each there once, frames offered so that they arrive."""
    from gymnast_core.graph import look
    from gymnast_core.robot.ros_domain import ros_domain

    found = look(["--station", str(path)])
    if found is None:
        return Finding("ROS graph", "optional", "nobody can look into it", "see the lines about ROS above")
    if found:
        status: Status = "optional" if all(line.startswith("advice: ") for line in found) else "missing"
        return Finding("ROS graph", status, "; ".join(found), "see docs/explanation/safety.md, Speakers and Camera")
    return Finding("ROS graph", "ok", f"nobody speaks twice in ROS domain {ros_domain()}")


def _run_python(code: str, **environment: str) -> tuple[bool, str]:
    """Run a few lines in a fresh interpreter; (whether they worked, their last line of output)."""
    try:
        result = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, "no answer within 120 s"
    if result.returncode == 0:
        lines = result.stdout.strip().splitlines()
        return True, lines[-1] if lines else ""
    if result.returncode < 0:
        return False, f"crashed with signal {-result.returncode}"
    # The last line of the traceback that looks like an exception; libraries add hints of several lines after it.
    lines = [line for line in result.stderr.splitlines() if line and not line[0].isspace()]
    named = [line for line in lines if line.split(":")[0].endswith(("Error", "Exception")) and ":" in line]
    return False, _one_line((named or lines or [f"exit code {result.returncode}"])[-1])


def _one_line(text: str, length: int = 300) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"


def _print(findings: list[Finding]) -> None:
    """The table, then one line that says the result."""
    marks = {"ok": "ok", "missing": "MISSING", "optional": "optional"}
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{marks[finding.status]:<9}{finding.name:<{width}}  {finding.detail}")
        if finding.remedy:
            print(f"{'':<9}{'':<{width}}  -> {finding.remedy}")
    missing = [finding.name for finding in findings if finding.status == "missing"]
    print()
    print(f"missing: {', '.join(missing)}" if missing else "everything needed is here")
