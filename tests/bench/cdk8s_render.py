"""The cdk8s peer's application, run by the Python that has cdk8s: an ApiObject for each of a service's objects.

The objects come as JSON made from the chart, with marks where a service's values go: no third copy of them to keep.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("JSII_RUNTIME_PACKAGE_CACHE_ROOT", f"{sys.prefix}/jsii")
os.environ.setdefault("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", "1")

from cdk8s import ApiObject, ApiObjectMetadata, App, Chart, JsonPatch

template, marks, values = (Path(name).read_text("utf-8") for name in sys.argv[1:])
application = App()
chart = Chart(application, "services")
for service in json.loads(values)["services"]:
    text = template
    for field, mark in json.loads(marks).items():
        text = text.replace(mark, str(service[field]))
    for number, one in enumerate(json.loads(text)):
        head = {"api_version": one.pop("apiVersion"), "kind": one.pop("kind")}
        made = ApiObject(
            chart, f"{service['name']}-{number}", metadata=ApiObjectMetadata(**one.pop("metadata")), **head
        )
        made.add_json_patch(*(JsonPatch.add(f"/{field}", value) for field, value in one.items()))
sys.stdout.write(application.synth_yaml())
