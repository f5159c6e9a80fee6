"""Most calls by uuid are about an object that is there; what was answered is written down.

schemathesis loads this file; test_schemathesis.py names it, and what the environment says.
"""

import atexit
import collections
import json
import os
import pathlib
import zlib

import schemathesis

UUIDS = json.loads(pathlib.Path(os.environ["EVENKEEL_UUIDS"]).read_text())


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    # /api/TYPE/… or /api/TYPE-inventory/…
    kind = (context.operation.path.split("/") + [""] * 3)[2].removesuffix("-inventory")
    known = UUIDS.get(kind)
    drawn = (path_parameters or {}).get("uuid")
    # By what was drawn, so that a seed does the same each time. What is deleted is not there for the others.
    number = zlib.crc32(repr(drawn).encode())
    if known and drawn is not None and number % 8:
        deletes = context.operation.method == "delete" or context.operation.path.endswith("/forcedelete")
        path_parameters["uuid"] = known[1 + number % 2] if deletes else known[0]
    return path_parameters


ANSWERS = collections.defaultdict(collections.Counter)


@schemathesis.hook
def after_call(context, case, response):
    ANSWERS[case.operation.label][str(response.status_code)] += 1


@atexit.register
def write_down():
    pathlib.Path(os.environ["EVENKEEL_ANSWERS"]).write_text(json.dumps(ANSWERS))
