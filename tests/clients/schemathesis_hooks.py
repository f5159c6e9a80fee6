"""Most calls by uuid are about an object that is there, and most have no parameter that makes a refusal of whatever they are; what
was answered is written down.

schemathesis loads this file; test_schemathesis.py names it, and what the environment says.
"""

import atexit
import collections
import collections.abc
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


POOL = [f"pool:{uuid}" for uuid in UUIDS.get("pool", [])[:1]]

# Parameters that make a refusal of any call, or take back what the others find, as they are drawn. Seven calls of eight have
# these instead; None: they have none.
TAME = {
    "X-Avi-Tenant": "admin", "X-Avi-Tenant-UUID": "admin", "X-Avi-Version": "30.2.1", "X-Evenkeel-Message": "a%20word",
    "X-Evenkeel-Confirm-Within": None, "Slug": None,
    "refers_to": POOL or None, "referred_by": POOL or None, "filter": ["ge(report_timestamp,0)"],
    "start": None, "end": None, "stop": None, "Referer": None,
    "include": "config,runtime",
}


@schemathesis.hook
def before_call(context, case, kwargs):
    parts = [part for part in (case.headers, case.query) if isinstance(part, collections.abc.MutableMapping)]
    # By what was drawn, as above.
    if zlib.crc32(repr([sorted(map(repr, part.items())) for part in parts]).encode()) % 8 == 0:
        return
    for part in parts:
        for name in set(TAME) & set(part):
            if TAME[name] is None:
                del part[name]
            else:
                part[name] = TAME[name]


ANSWERS = collections.defaultdict(collections.Counter)


@schemathesis.hook
def after_call(context, case, response):
    ANSWERS[case.operation.label][str(response.status_code)] += 1


@atexit.register
def write_down():
    pathlib.Path(os.environ["EVENKEEL_ANSWERS"]).write_text(json.dumps(ANSWERS))
