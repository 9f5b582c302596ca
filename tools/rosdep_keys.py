"""Which dependencies of our package.xml files a ROS 2 distribution lacks, by a checkout of rosdistro's index.

    git clone --depth 1 https://github.com/ros/rosdistro /tmp/rosdistro
    python -m tools.rosdep_keys /tmp/rosdistro

A line for each key that resolves nowhere, and exit code 1, where one is missing that is not the arm vendor's.
"""

from __future__ import annotations

import argparse
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTIONS = {"humble": "jammy", "jazzy": "noble", "lyrical": "resolute"}
"""ROS 2 distribution, and the Ubuntu release it is for."""
VENDOR = frozenset({"interbotix_common_modules", "interbotix_xs_modules"})
"""The arm vendor's own, which are in no index: the vendor's workspace has them, and `rosdep` skips them."""


def dependencies(root: Path = ROOT) -> dict[str, str]:
    """Names that our packages depend on, with the file that says so; without our own packages."""
    files = [root / "package.xml", *sorted((root / "ros2_ws" / "src").glob("*/package.xml"))]
    documents = {path: ElementTree.parse(path).getroot() for path in files}
    own = {document.findtext("name") for document in documents.values()}
    found: dict[str, str] = {}
    for path, document in documents.items():
        for element in document:
            if element.tag.endswith("depend") and element.text and element.text not in own:
                found.setdefault(element.text, str(path.relative_to(root)))
    return found


def released(index: Path, distribution: str) -> set[str]:
    """Packages that the distribution has released. Raises: OSError where the checkout lacks it."""
    content = yaml.safe_load((index / distribution / "distribution.yaml").read_text(encoding="utf-8"))
    packages: set[str] = set()
    for name, repository in content["repositories"].items():
        release = repository.get("release") or {}
        if release.get("version"):
            packages |= set(release.get("packages") or [name])
    return packages


def system_keys(index: Path, ubuntu: str) -> set[str]:
    """Keys that rosdep resolves to packages of an Ubuntu release."""
    found = set()
    for file in ("base.yaml", "python.yaml"):
        for key, rule in yaml.safe_load((index / "rosdep" / file).read_text(encoding="utf-8")).items():
            names = (rule or {}).get("ubuntu")
            if isinstance(names, dict):
                names = names.get(ubuntu, names.get("*"))
            if names:
                found.add(key)
    return found


def missing(index: Path, root: Path = ROOT) -> dict[str, list[str]]:
    """Keys that resolve nowhere, by distribution; the vendor's are not counted."""
    wanted = dependencies(root).keys() - VENDOR
    return {
        distribution: sorted(wanted - released(index, distribution) - system_keys(index, ubuntu))
        for distribution, ubuntu in DISTRIBUTIONS.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("index", type=Path, help="checkout of github.com/ros/rosdistro")
    try:
        found = missing(parser.parse_args().index)
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}; is this a checkout of rosdistro?", file=sys.stderr)
        return 2
    files = dependencies()
    for distribution, keys in found.items():
        print(f"{distribution}: {len(files) - len(VENDOR) - len(keys)} keys resolve, {len(keys)} do not")
        for key in keys:
            print(f"  {key} ({files[key]})")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
