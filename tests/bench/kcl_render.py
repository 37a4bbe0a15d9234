"""Renders services.k: the KCL peer's command line, run by the Python that has kcl-lib."""

import json
import sys
from pathlib import Path

from kcl_lib import api

module, values = sys.argv[1:]
services = json.dumps(json.loads(Path(values).read_text())["services"])
arguments = api.ExecProgramArgs(k_filename_list=[module], args=[api.Argument(name="services", value=services)])
result = api.API().exec_program(arguments)
sys.stderr.write(result.err_message)
sys.stdout.write(result.yaml_result)
