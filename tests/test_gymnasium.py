"""The station and its world model as gymnasium environments, by gymnasium's own checker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gymnast_core.data.frames import write_image
from gymnast_core.errors import GymnastError
from tests.tiny_station import build_tiny_station

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402 - after the skip

STATION, IMAGINATION = (f"gymnast_core.environments:gymnast/{name}-v0" for name in ("Station", "Imagination"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_tiny_station(tmp_path_factory.mktemp("station"), simulated=True))


@pytest.fixture
def station(config: str) -> Iterator[gymnasium.Env]:
    made = gymnasium.make(STATION, config=config, task="close_drawer", max_steps=4, render_mode="rgb_array")
    yield made
    made.close()


@pytest.fixture
def imagination(config: str, tmp_path: Path) -> Iterator[gymnasium.Env]:
    rng = np.random.default_rng(0)
    for name in "ab":
        write_image(tmp_path / f"{name}.png", rng.integers(0, 255, (48, 64, 3), np.uint8))
    frames = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    made = gymnasium.make(
        IMAGINATION, config=config, frames=frames, instruction="close it", max_steps=3, render_mode="rgb_array"
    )
    yield made
    made.close()


@pytest.mark.filterwarnings("ignore:.*Box observation space m.*:UserWarning")
@pytest.mark.parametrize("name", ["station", "imagination"])
def test_gymnasium_finds_nothing_wrong(name: str, request: pytest.FixtureRequest) -> None:
    check_env(request.getfixturevalue(name).unwrapped)


@pytest.mark.parametrize("name", ["station", "imagination"])
def test_an_episode_ends_after_its_steps_and_the_same_seed_is_the_same_episode(
    name: str, request: pytest.FixtureRequest
) -> None:
    env = request.getfixturevalue(name)
    action = np.float32([0.02, 0, 0, 0, 0, 0, 1])

    def episode(seed: int) -> list[np.ndarray]:
        observation, _ = env.reset(seed=seed)
        seen, ended = [observation["pixels"]], False
        while not ended:
            observation, reward, terminated, truncated, info = env.step(action)
            ended = terminated or truncated
            seen.append(observation["pixels"])
            assert reward == 0.0 or ended
            assert ("judge_score" in info) == (ended and name == "imagination")
        np.testing.assert_array_equal(env.render(), seen[-1])
        return seen

    first, again, other = episode(5), episode(5), episode(6)
    assert len(first) == env.unwrapped.max_steps + 1
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_stations_truth_is_the_reward_and_ends_the_episode(config: str) -> None:
    """The task is done before the first action: the drawer that is to be opened stands open."""
    env = gymnasium.make(STATION, config=config, task="open_drawer", max_steps=4)
    env.reset(seed=0)
    simulated = env.unwrapped._simulated.station()
    simulated.reset("close_drawer", 1)
    *_, reward, terminated, truncated, info = env.step(np.float32([0, 0, 0, 0, 0, 0, 1]))
    assert (reward, terminated, truncated, info["is_success"]) == (1.0, True, False, True)
    env.close()


def test_several_side_by_side_are_those_alone(config: str) -> None:
    envs = gymnasium.make_vec(STATION, num_envs=2, vectorization_mode="sync", config=config, task="close_drawer")
    observations, _ = envs.reset(seed=[3, 4])
    for row, seed in enumerate((3, 4)):
        alone = gymnasium.make(STATION, config=config, task="close_drawer")
        np.testing.assert_array_equal(alone.reset(seed=seed)[0]["pixels"], observations["pixels"][row])
        alone.close()
    assert envs.call("task_description") == ("close the drawer",) * 2
    envs.close()


def test_what_is_wrong_is_one_line(config: str, station: gymnasium.Env, imagination: gymnasium.Env) -> None:
    def told(work: object) -> str:
        with pytest.raises(GymnastError) as caught:
            work()  # type: ignore[operator]
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "unknown task 'fold'" in told(lambda: gymnasium.make(STATION, config=config, task="fold"))
    assert "max_steps: found -1" in told(lambda: gymnasium.make(STATION, config=config, max_steps=-1))
    assert "options: found 'frame', allowed are task" in told(lambda: station.reset(options={"frame": 1}))
    assert "no such image" in told(lambda: imagination.reset(options={"frame": "nowhere.png"}))
    assert "needed a uint8 RGB image" in told(lambda: imagination.reset(options={"frame": np.zeros((32, 32, 3))}))
    station.reset(seed=0)
    assert "needed 7 finite numbers" in told(lambda: station.unwrapped.step(np.float32([np.nan] * 7)))
    bare = gymnasium.make(IMAGINATION, config=config, instruction="close it", judged=False)
    assert "name a picture" in told(bare.reset)
