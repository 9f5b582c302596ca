"""Packaging of gymnast: one file for pip (`pip install -e .`) and for colcon (the ROS package `gymnast`).

The base install is what reading data, the policy, the world model and the trainer need. Everything heavier, or needed
only beside certain hardware, is an extra with its reason beside it. The ROS packages (rclpy, the message packages and
the vendor's interbotix_xs_modules) are no pip requirements: they come with a ROS 2 installation, or as wheels pinned
in tools/ros_wheels.txt; package.xml names them for rosdep.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
PACKAGE = "gymnast_core"

BASE = [
    "numpy>=1.24,<3",
    "pyyaml>=6.0,<7",
    "opencv-python>=4.8,<6",
    "pillow>=10,<14",
    "torch>=2.4,<3",
    "safetensors>=0.4.3,<1",
    "tokenizers>=0.20,<1",
    "einops>=0.7,<1",
    "scipy>=1.11,<2",
    "scikit-image>=0.22,<1",  # structural similarity of imagined frames
    "tyro>=1.0.17,<2",  # from here on it completes words in bash, zsh and fish
    "rich>=13.7,<16",
    "pydantic>=2.7,<3",
    "jinja2>=3.1,<4",
    "markupsafe>=2.1,<4",
    "matplotlib>=3.8,<4",
    "tensorboard>=2.15,<3",
    "av>=17,<19",  # films; brings its own ffmpeg. Before 17 it turned BT.709 into RGB by BT.601's matrix
    "peft>=0.21,<1",  # low-rank adapters, which practice trains; brings transformers and accelerate along
    "huggingface_hub>=1,<3",  # models and data sets of the Hugging Face Hub; peft brings it along
    "stamina>=24.3,<27",
]

EXTRAS = {
    # The simulated stations; a lab with its own arm does without.
    "station": ["mujoco>=3.2,<5"],
    # A WidowX AI: its vendor's package, of the version of the arm's firmware.
    "trossen": ["trossen-arm>=1.9,<2"],
    # A simulated one: its MuJoCo model, and its simulated controller.
    "trossen-sim": ["trossen-arm-sim>=0.2.3,<0.3"],
    # Judges behind an OpenAI-compatible API.
    "vlm": ["openai>=1.40,<4"],
    # Episode logs: MCAP written and read without rosbag2.
    "log": [
        "mcap>=1.1,<2",
        "mcap-ros2-support>=0.5.3,<1",
        "lz4>=4.3,<5",
        "zstandard>=0.22,<1",
        "rosbags>=0.11,<1",
    ],
    # LeRobot data sets, read and written: their tables.
    "lerobot": ["pyarrow>=17,<28"],
    # RLDS data sets, read and written without TensorFlow: fast checksums, and protobuf's wire format.
    "rlds": ["google-crc32c>=1.5,<2", "protobuf>=4.21,<8"],
    # Published checkpoints: the autoencoder of WorldGym.
    "checkpoints": ["diffusers>=0.31,<1"],
    # Vision-language models that judge in process, Qwen3-VL among them; without it peft brings some version.
    # Films (`frames_as: video`) also need torchvision, in the build that belongs to the torch that is installed.
    "local-judge": ["transformers>=4.57,<6"],
    # A frozen base in 4 bits for training adapters (`base_precision: nf4`): its quantiser and the GPU kernels for it.
    "four-bit": ["bitsandbytes>=0.46,<1"],
    # A policy for other programs (`gymnast serve`), and policies behind openpi's WebSocket interface.
    "serve": ["fastapi>=0.115,<1", "uvicorn>=0.35,<1", "websockets>=15,<18", "msgpack>=1.0.5,<2"],
    # Timelines of episodes and imagined rollouts (`gymnast data view`); 170 MB, so that it is in no other extra.
    "view": ["rerun-sdk>=0.41,<1"],
    # The station and the world model as environments of gymnasium.
    "gymnasium": ["gymnasium>=1.1,<2"],
    # `make test`.
    "dev": [
        "pytest>=8,<10",
        "pytest-timeout>=2.3,<3",
        "pytest-random-order>=1.1,<2",  # only where asked for: --random-order
        "pytest-xdist>=3.6,<4",  # `make test`: what runs over ROS beside what needs none
        "hypothesis>=6.100,<7",
        "pin>=3,<5; sys_platform == 'linux'",  # pinocchio, which the kinematics are held against
        "trossen-arm-sim>=0.2.3,<0.3; sys_platform == 'linux'",
        "ruff>=0.8,<1",
        "mypy>=1.13,<3",
        "types-PyYAML>=6.0",
        "mkdocs-material>=9.6,<10",  # `make docs`
    ],
}
EXTRAS["full"] = sorted(
    {
        requirement
        for name in (
            "station",
            "vlm",
            "log",
            "lerobot",
            "rlds",
            "checkpoints",
            "local-judge",
            "four-bit",
            "serve",
            "gymnasium",
        )
        for requirement in EXTRAS[name]
    }
)


def package_files() -> list[str]:
    """Every file below gymnast_core that is not code (recipes, scenes, weights, templates), relative to it."""
    folder = ROOT / PACKAGE
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"} and "__pycache__" not in path.parts
    )


def share_files(pattern: str) -> list[str]:
    """Files of the repository for the ROS share folder, relative to the root as setuptools wants them."""
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))


setup(
    name="gymnast",
    version="0.1.0",
    description="Practise in imagination: test-time training of a robot policy inside a video world model, over ROS 2",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").is_file() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={PACKAGE: package_files()},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/gymnast"]),
        ("share/gymnast", ["package.xml"]),
        ("share/gymnast/launch", share_files("launch/*.launch.py")),
        ("share/gymnast/robot_configs", share_files("robot_configs/*.yaml")),
    ],
    install_requires=BASE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["gymnast = gymnast_core.cli:run"]},
    zip_safe=False,
)
