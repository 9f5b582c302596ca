"""`gymnast dyna status`: the tree of what was made from what."""

from __future__ import annotations

import dataclasses
import json

from gymnast_core.errors import DataError
from gymnast_core.files import user_path
from gymnast_core.workflows.dyna_config import DynaStatusOptions
from gymnast_core.workflows.lineage import LINEAGE, merged, read_lineages, tree


def dyna_status(options: DynaStatusOptions) -> int:
    """Print the tree. Raises: DataError where there is no lineage, CheckpointError for a damaged one."""
    lineages = read_lineages([user_path(run, "runs") for run in options.runs])
    if not lineages:
        raise DataError(f"{', '.join(options.runs)}: no {LINEAGE} below it; `gymnast dyna` writes it")
    if options.json:
        print(json.dumps({"runs": [dataclasses.asdict(lineage) for lineage in lineages]}))
    else:
        print("\n".join(tree(merged(lineages))))
    return 0
