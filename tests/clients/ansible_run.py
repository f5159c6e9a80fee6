"""Runs playbooks, and judges each task by what Ansible says of it in JSON.

The name of a task says what is expected: `changed: …`, `unchanged: …`, or `refused: TEXT`, where TEXT is in the message.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
VENV = pathlib.Path(sys.prefix)
# For one playbook, on a busy machine.
PATIENCE_S = 120


def play(playbook, address, user, password, namespace=None, **variables):
    """The results of a playbook's tasks by name, run from a network namespace if one is named.

    Fails with every task that did not end as its name says.
    """
    command = ["ip", "netns", "exec", namespace] if namespace else []
    command += [VENV / "bin" / "ansible-playbook", "-i", "localhost,", "-c", "local", HERE / "playbooks" / playbook,
                "-e", json.dumps(variables | {"ansible_python_interpreter": sys.executable})]
    with tempfile.TemporaryDirectory(prefix="evenkeel-ansible-") as home:
        environment = os.environ | {
            "AVI_CONTROLLER": address, "AVI_USERNAME": user, "AVI_PASSWORD": password,
            "ANSIBLE_HOME": home, "ANSIBLE_LOCAL_TEMP": f"{home}/tmp", "ANSIBLE_REMOTE_TEMP": f"{home}/tmp",
            "ANSIBLE_CONFIG": str(HERE / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(VENV / "collections"),
        }
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=PATIENCE_S)
    tasks = results(done)
    surprises = [f"{name}\n    was {outcome(result)}" for name, result in tasks if not as_expected(name, result)]
    if surprises:
        raise AssertionError("\n".join([f"{playbook} {variables}:", *surprises]))
    return dict(tasks)


def results(done):
    # Warnings may stand before the JSON.
    start = done.stdout.find("{\n")
    if start < 0:
        raise AssertionError(f"ansible-playbook said no JSON: {done.stdout}{done.stderr}")
    tasks = [t for p in json.loads(done.stdout[start:])["plays"] for t in p["tasks"]]
    return [(t["task"]["name"], t["hosts"]["localhost"]) for t in tasks]


def as_expected(name, result):
    expectation, text = name.split(": ", 1)
    if expectation == "refused":
        return bool(result.get("failed")) and text in refusal(result)
    return not result.get("failed") and result.get("changed") == (expectation == "changed")


def refusal(result):
    # A module that does not handle a refusal says it in a traceback.
    return " ".join(str(result.get(part, "")) for part in ("msg", "module_stderr", "exception"))


def outcome(result):
    if result.get("failed"):
        return f"refused: {refusal(result)}"
    return f"{'changed' if result.get('changed') else 'unchanged'}: {json.dumps(result.get('obj'))[:1000]}"
