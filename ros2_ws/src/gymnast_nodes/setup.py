"""Packaging of the ROS 2 nodes; every node is the executable `<name>` of the package `gymnast_nodes`."""

from setuptools import find_packages, setup

PACKAGE = "gymnast_nodes"
NODES = (
    "station",
    "driver",
    "arm",
    "camera",
    "executor",
    "adapter",
    "recorder",
    "evaluator",
    "console",
    "supervisor",
    "watchdog",
)

setup(
    name=PACKAGE,
    version="0.1.0",
    description="ROS 2 nodes around gymnast_core",
    license="MIT",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={PACKAGE: ["*.xml", "py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    entry_points={"console_scripts": [f"{name} = {PACKAGE}.{name}_node:main" for name in NODES]},
    zip_safe=False,
)
