"""The simulated station: its motors, its drawer, its resets and its camera do what the real one's do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gymnast_core.cli import main
from gymnast_core.config import SimulationConfig, StationConfig, load_config
from gymnast_core.data.episode import find_episodes, read_episode
from gymnast_core.errors import ConfigError, StationError
from gymnast_core.protocols import Environment, Policy, Start
from gymnast_core.robot.kinematics import JOINT_LOWER, JOINT_UPPER, forward_kinematics
from gymnast_core.simulation.environment import StationEnvironment
from gymnast_core.simulation.expert import ExpertPolicy, RandomPolicy
from gymnast_core.simulation.expert_plans import MAX_STEP
from gymnast_core.simulation.simulator import ARM_JOINTS, MAX_JOINT_SPEED, MotionProfile, SimulatedStation, mujoco

ROOT = Path(__file__).resolve().parent.parent
CONFIG = load_config(StationConfig, ROOT / "robot_configs" / "simulated_drawer.yaml")
INSTRUCTIONS = {name: task.instruction for name, task in CONFIG.tasks.items()}
STILL = np.array([0, 0, 0, 0, 0, 0, 1], dtype=np.float32)


def start(task: str, seed: int) -> Start:
    return Start(INSTRUCTIONS[task], task=task, seed=seed)


@pytest.fixture(scope="module")
def environment() -> StationEnvironment:
    return StationEnvironment(CONFIG, max_rollouts=2)


def run_expert(environment: StationEnvironment, task: str, seed: int, steps: int = 25, **noise: float) -> list:
    """Actions of the expert until it is done; [] when it never was."""
    expert = ExpertPolicy(environment, **noise)
    frames = environment.reset([start(task, seed)])
    expert.begin(seed)
    actions = []
    for _ in range(steps):
        actions.append(expert.act(frames, [INSTRUCTIONS[task]])[0])
        if environment._active[0].step(actions[-1][0]) and environment.station().success(task):
            return actions
    return []


def test_a_scene_at_rest_is_drawn_once_and_simulated_the_same() -> None:
    station, other = SimulatedStation(CONFIG), SimulatedStation(CONFIG)
    renderer = station.renderer(64, 48)
    for one in (station, other):
        one.reset("open_drawer", 3)
        one.command_joints(np.array([0.2, -1.5, 1.4, 0.0, 0.8, 0.0]), 0.3, 0.1)
    for _ in range(800):
        station.advance(0.01)  # at rest in one go, five steps at a time
        for _ in range(5):
            other.advance(0.002)
    assert np.array_equal(station.joint_state()[0], other.joint_state()[0])

    first = renderer.render(station.snapshot())
    station.advance(0.5)
    assert renderer.render(station.snapshot()) is first
    drawer = station.snapshot()
    drawer.positions[station._model.joint(station.scene.drawer_joint).qposadr[0]] += 0.05
    moved = renderer.render(drawer)
    assert not np.array_equal(moved, first)
    assert np.array_equal(renderer.render(station.snapshot()), first)
    drawer = dataclasses.replace(drawer, light_diffuse=drawer.light_diffuse * 0.5)
    assert renderer.render(drawer).mean() < moved.mean()
    renderer.close()


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, 6, elements=st.floats(-1.5, 1.5)))
def test_the_model_has_the_kinematics_of_the_arm(joints: np.ndarray) -> None:
    station = test_the_model_has_the_kinematics_of_the_arm.__dict__.setdefault("station", SimulatedStation(CONFIG))
    station.place_arm(np.clip(joints, JOINT_LOWER, JOINT_UPPER))
    positions = station.joint_state()[0]
    np.testing.assert_allclose(station.end_effector(), forward_kinematics(positions[:6]), atol=1e-6)


def test_the_model_has_the_limits_and_masses_of_the_arm() -> None:
    model = mujoco.MjModel.from_xml_path(str(ROOT / "gymnast_core/simulation/scenes/drawer.xml"))
    ranges = np.array([model.joint(name).range for name in ARM_JOINTS])
    np.testing.assert_allclose(ranges, np.stack([JOINT_LOWER, JOINT_UPPER], axis=1), atol=2e-5)
    np.testing.assert_allclose(model.joint("left_finger").range, [0.015, 0.037])
    moving = sum(float(model.body(name).mass[0]) for name in ("shoulder_link", "upper_arm_link", "upper_forearm_link"))
    assert moving == pytest.approx(0.480879 + 0.430811 + 0.234589)


@settings(deadline=None)
@given(st.floats(0.05, 2.0), st.floats(0.0, 1.0), arrays(np.float64, 6, elements=st.floats(-2.0, 2.0)), st.floats(0, 1))
def test_a_profile_is_smooth_on_time_and_never_faster_than_the_motors(
    duration: float, ramp: float, goal: np.ndarray, interrupted: float
) -> None:
    """A goal is reached at its duration (later only where the motor is too slow), also from a motion under way."""
    profile = MotionProfile(np.zeros(6))
    profile.set_goal(-goal, 0.5, 0.2)
    profile.advance(interrupted * 0.5)
    profile.set_goal(goal, duration, ramp)
    before, speed_before = profile.now()
    n, dt, elapsed = 0, 0.002, 0.0
    while elapsed < duration or np.any(profile.now()[1] != 0.0):
        position = profile.advance(dt)
        elapsed += dt
        limit = max(MAX_JOINT_SPEED, float(np.abs(speed_before).max())) * 1.001
        assert np.abs(position - before).max() <= limit * dt + 1e-9
        before, n = position, n + 1
        assert n < 3000
    np.testing.assert_allclose(profile.now()[0], goal, atol=1e-9)
    slowest = (np.abs(goal).max() * 2 + MAX_JOINT_SPEED) / MAX_JOINT_SPEED
    assert elapsed <= max(duration, slowest + min(ramp, duration / 2)) + 2 * dt


def test_the_arm_follows_a_command_in_the_time_of_its_profile() -> None:
    station = SimulatedStation(CONFIG)
    home = np.array([0.0, -0.1617, 0.2265, 0.0, 1.506, 0.0])
    aside = np.array([0.3, 0, 0, 0, 0, 0])
    station.place_arm(home)
    station.advance(0.5)
    resting = station.joint_state()[0][:6]
    station.command_joints(home + aside, 0.25, 0.1)
    station.advance(0.1)
    on_the_way = station.joint_state()[0][0]
    station.advance(0.15)
    assert 0.01 < on_the_way - resting[0] < 0.15, "it ramps up"
    assert station.joint_state()[0][0] - resting[0] == pytest.approx(0.3, abs=0.08), "some 50 ms behind, as motors are"
    station.advance(0.5)
    positions, velocities, _ = station.joint_state()
    assert positions[0] - resting[0] == pytest.approx(0.3, abs=0.01)
    assert np.abs(velocities[:6]).max() < 0.02
    assert np.abs(positions[:6] - home - aside).max() < 0.06, "gravity's droop stays that of a good arm"


def test_without_torque_the_arm_sinks_and_ignores_goals() -> None:
    station = SimulatedStation(CONFIG)
    home = np.array([0.0, -0.1617, 0.2265, 0.0, 1.506, 0.0])
    station.place_arm(home)
    station.set_torque(False)
    station.command_joints(home + 0.5, 0.2, 0.1)
    station.advance(1.0)
    assert station.end_effector()[2, 3] < forward_kinematics(home)[2, 3] - 0.03
    sunk = station.joint_state()[0][:6]
    station.set_torque(True)
    station.advance(1.0)
    assert np.abs(station.joint_state()[0][:6] - sunk).max() < 0.2, (
        "torque holds where the arm is, it does not jump back"
    )


def test_the_gripper_goes_to_its_ends_by_pwm_and_to_a_distance() -> None:
    station = SimulatedStation(CONFIG)
    openings = []
    for pwm in (350, -350):
        station.command_gripper_pwm(pwm)
        station.advance(1.0)
        openings.append(float(station.joint_state()[0][7]))
    assert openings == pytest.approx([0.037, 0.015], abs=0.001)
    station.command_gripper_position(0.05)
    station.advance(1.0)
    positions = station.joint_state()[0]
    assert positions[7] == pytest.approx(0.025, abs=0.0015) and positions[8] == -positions[7]


@pytest.mark.parametrize("task", ["open_drawer", "close_drawer"])
def test_the_expert_succeeds_within_20_steps(environment: StationEnvironment, task: str) -> None:
    lengths = [len(run_expert(environment, task, seed)) for seed in range(20)]
    assert sum(0 < length <= 20 for length in lengths) >= 19, lengths


def test_the_expert_recovers_from_noise_and_slips(environment: StationEnvironment) -> None:
    done = [bool(run_expert(environment, "open_drawer", seed, 30, noise=0.008, slip=0.05)) for seed in range(12)]
    assert sum(done) >= 10


def test_the_drawer_moves_only_where_the_gripper_touches_it(environment: StationEnvironment) -> None:
    """The motion that opens it leaves it alone 9 cm higher, and standing still leaves it alone for good."""
    actions = [chunk[0] for chunk in run_expert(environment, "open_drawer", 1)]
    assert actions
    environment.reset([start("open_drawer", 1)])
    before = environment.station().drawer_opening
    for action in actions:
        # The same sideways motion without going down.
        environment._active[0].step(action * np.array([1, 1, 0, 1, 1, 1, 1], dtype=np.float32))
    assert environment.station().drawer_opening == pytest.approx(before, abs=1e-4)
    environment.reset([start("close_drawer", 2)])
    before = environment.station().drawer_opening
    environment.station().advance(10.0)
    assert environment.station().drawer_opening == pytest.approx(before, abs=1e-4)


@pytest.mark.parametrize("task", ["open_drawer", "close_drawer"])
def test_a_reset_starts_the_task_undone_and_doing_nothing_fails(environment: StationEnvironment, task: str) -> None:
    places, openings = set(), set()
    for seed in range(8):
        environment.reset([start(task, seed)])
        station = environment.station()
        assert not station.success(task)
        places.add(tuple(np.round(station.view.site_position("handle"), 5)))
        openings.add(round(station.drawer_opening, 5))
    assert len(places) == len(openings) == 8, "every seed has its own drawer"
    result = environment.step(np.tile(STILL, (1, 30, 1)))
    assert not result.success.any()


def test_an_episode_depends_on_its_seed_alone(environment: StationEnvironment) -> None:
    """Same seed, same frames and states to the last bit, whatever ran before and beside it."""
    actions = RandomPolicy()
    actions.begin(5)
    chunk = np.concatenate([actions.act(np.empty((1, 0)), ["x"]) for _ in range(12)], axis=1)

    def rollout(starts: list[Start], row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        first = environment.reset(starts)
        result = environment.step(np.repeat(chunk, len(starts), axis=0))
        return first[row], result.frames[row], environment.states()[row, -1]

    once = rollout([start("close_drawer", 11)], 0)
    rollout([start("open_drawer", 12)], 0)
    again = rollout([start("open_drawer", 13), start("close_drawer", 11)], 1)
    other = rollout([start("close_drawer", 14)], 0)
    for before, after in zip(once, again):
        np.testing.assert_array_equal(before, after)
    assert np.abs(once[0].astype(int) - other[0]).max() > 20, "another seed is seen to be another"


def test_the_environment_keeps_its_contract(environment: StationEnvironment) -> None:
    assert isinstance(environment, Environment) and isinstance(ExpertPolicy(environment), Policy)
    size = CONFIG.camera.observation_size
    first = environment.reset([start("open_drawer", 1), start("close_drawer", 2)])
    assert first.shape == (2, size, size, 3) and first.dtype == np.uint8
    actions = np.zeros((2, 3, 7), dtype=np.float32)
    actions[0, :, 0], actions[1, :, 2], actions[..., 6] = 0.2, 0.02, 1.0
    result = environment.step(actions)
    assert result.executed.shape == (2, 3, 7) and result.success.shape == (2, 3)
    assert "translation_clipped" in sum(result.safety_events[0], ()) and "translation_clipped" not in sum(
        result.safety_events[1], ()
    )
    np.testing.assert_allclose(result.executed[0, 0, 0], CONFIG.safety.max_translation, atol=1e-6)
    np.testing.assert_allclose(result.executed[1, :, :6], actions[1, :, :6], atol=1e-6)
    assert result.changed.tolist() == [[True] * 3, [False] * 3]
    video = environment.video()
    assert video.shape == (2, 4, size, size, 3)
    np.testing.assert_array_equal(video[:, 0], first)
    np.testing.assert_array_equal(video[:, -1], result.frames)
    other = dataclasses.replace(CONFIG, arm=dataclasses.replace(CONFIG.arm, rotation="autoeval_compat"))
    added = StationEnvironment(other)
    added.reset([start("open_drawer", 1)])
    turned = np.array([[[0, 0, 0.01, 0.05, 0.1, 0.05, 1]]], dtype=np.float32)
    result = added.step(turned)
    assert np.abs(result.executed - turned).max() > 0.01, "what was done is told about the base axes"
    assert not result.changed.any(), "and yet the envelope let it through as it was"
    np.testing.assert_array_equal(environment.video([3, 0])[:, 1], first)
    with pytest.raises(StationError, match="1 to 2 rollouts"):
        environment.reset([start("open_drawer", seed) for seed in range(3)])
    with pytest.raises(StationError, match="under way"):
        environment.reset([start("open_drawer", 1)])
        environment.step(actions)
    with pytest.raises(StationError, match="asked for"):
        environment.video([1])
    with pytest.raises(ConfigError, match=r"close_drawer, open_drawer"):
        environment.reset([Start("x", task="fold_cloth")])


def test_gripper_handle_and_opening_are_seen_in_small_pictures(environment: StationEnvironment) -> None:
    """What a small policy has to see changes enough pixels at 64x64: the drawer, and the gripper by one step."""
    camera = dataclasses.replace(CONFIG.camera, observation_size=64)
    small = StationEnvironment(dataclasses.replace(CONFIG, camera=camera))
    closed = small.reset([start("open_drawer", 3)])[0].astype(int)
    opened = small.reset([start("close_drawer", 3)])[0].astype(int)
    assert (np.abs(closed - opened).max(axis=2) > 40).sum() > 60
    moved = small.step(np.array([[[0, 0, -MAX_STEP, 0, 0, 0, 1]]], dtype=np.float32)).frames[0].astype(int)
    assert (np.abs(opened - moved).max(axis=2) > 40).sum() > 30


def test_autoevals_recorded_motions_fit_the_scene() -> None:
    """Recorded on the real station: the motion named "open" pulls our drawer's handle, "close" pushes the drawer."""
    folder = ROOT.parent / "shared" / "data" / "autoeval_scripted"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: the recorded motions are not part of the project")
    station = StationEnvironment(CONFIG)
    moved = {}
    for task, name in (("close_drawer", "close_the_drawer"), ("open_drawer", "open_the_drawer")):
        actions = np.load(folder / f"{name}.npz", allow_pickle=False)["actions"]
        changes = []
        for seed in range(4):
            station.reset([start(task, seed)])
            before = station.station().drawer_opening
            for action in actions:
                station._active[0].step(action)
            changes.append(station.station().drawer_opening - before)
        moved[task] = np.array(changes)
    assert (moved["open_drawer"] > 0.03).sum() >= 2 and moved["open_drawer"].min() > -0.01
    assert (moved["close_drawer"] < -0.03).sum() >= 2 and moved["close_drawer"].max() < 0.01


@pytest.mark.parametrize(
    "scene, message",
    [
        ("kitchen", "no such scene file; shipped scenes: drawer, sink"),
        ("model: nowhere.xml\ntasks: {}\n", "no such file beside it"),
        ("model: drawer.xml\ntasks: {}\ncolour: red\n", "colour"),
    ],
)
def test_a_wrong_scene_is_named(scene: str, message: str, tmp_path: Path) -> None:
    name = scene
    if "\n" in scene:
        (tmp_path / "mine.yaml").write_text(scene)
        name = str(tmp_path / "mine.yaml")
    with pytest.raises(ConfigError, match=message):
        SimulatedStation(dataclasses.replace(CONFIG, simulation=SimulationConfig(name)))


def test_collecting_resumes_and_repeats_itself(tmp_path: Path) -> None:
    """Episodes are whole and true to the station's outcome; a cut one is made again, the same; finished ones stay."""
    words = ["--config", str(ROOT / "robot_configs/simulated_drawer.yaml"), "--horizon", "16", "--workers", "1"]
    words = ["data", "collect", *words, "--episodes", "3", "--after-success", "0", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    folders = find_episodes(tmp_path / "out")
    first = [read_episode(folder) for folder in folders]
    assert len(first) == 3 and all(episode.complete and len(episode.frames) == episode.length + 1 for episode in first)
    assert {episode.instruction for episode in first} == set(INSTRUCTIONS.values())
    for episode in first:
        opening = episode.metadata["drawer_opening"][-1]
        assert episode.success == (opening > 0.06 if "open" in episode.instruction else opening < 0.015)
        assert np.isfinite(episode.states).all() and episode.actions.shape == (episode.length, 7)
    header = folders[1] / "episode.json"
    header.write_text(header.read_text().replace('"complete"', '"recording"'))
    kept = (folders[0] / "episode.json").stat().st_mtime_ns
    assert main(words) == 0
    second = read_episode(folders[1])
    np.testing.assert_array_equal(second.frames, first[1].frames)
    np.testing.assert_array_equal(second.executed, first[1].executed)
    assert (folders[0] / "episode.json").stat().st_mtime_ns == kept
