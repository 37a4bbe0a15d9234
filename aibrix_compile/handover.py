"""From `scaling: none` to a scaler without a moment in which nobody owns the number of replicas.

A field that Git alone owned is reset when Git drops it: a Deployment of eight replicas would fall to one. So the change takes
two commits. In the first, the scaler's objects appear and the manifest keeps the number it had (Argo CD is told to ignore what
becomes of it), marked as handed over; once that is synced and the scaler has taken the number, `build --finish-handover`
drops it.
"""

from __future__ import annotations

import re

from aibrix_compile.artifact import Object

MARK = "serving.aibrix.ai/replicas"
_NUMBER = re.compile(
    r"^  replicas: (\d+)$", re.MULTILINE
)  # our own canonical text: spec.replicas stands at this depth alone


def staged(value: Object, previous: str | None) -> Object:
    """The workload with the number of replicas that its file has now, which the new one leaves to a scaler."""
    number = _NUMBER.search(previous or "")
    if number is None:
        return value
    metadata = value["metadata"]
    marked = metadata | {"annotations": metadata["annotations"] | {MARK: "handed over"}}
    return value | {"metadata": marked, "spec": {"replicas": int(number[1])} | value["spec"]}
