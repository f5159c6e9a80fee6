"""schemathesis, the fuzzer of others, by the document that the controller gives of itself: no answer is 5xx, and none is of
another status, media type or shape than documented.

What it does is fixed by a seed, so that CI does the same each time. `make fuzz-api` does more of it, with other seeds.
"""

import base64
import json
import os
import pathlib
import re
import subprocess
import sys
import time

import requests
from controller import PASSWORD, USER, ControllerTest, wait_for

HERE = pathlib.Path(__file__).parent
# Cases of an operation, beside those that it makes of the limits of each field.
EXAMPLES = os.environ.get("EVENKEEL_EXAMPLES", "8")
SEED = os.environ.get("EVENKEEL_SEED", "1")
PHASES = os.environ.get("EVENKEEL_PHASES", "coverage,fuzzing")
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"

# Operations that the run leaves out, and why. Those that others of these tests call are named with them.
LEFT_OUT = {
    "post_logout": "would end the session that the run has; the run with Basic calls it",
    "get_ek_event": "a stream of events that does not end",
    "get_ek_flowevent_stream": "the same",
}

# Operations that are refused whatever it sends, and why.
REFUSED = {
    "GET /api/ek/explain/vip/{address}": "no virtual service is placed",
    "GET /api/ek/traceflow": "wants two ends of a flow",
    "POST /api/ek/confirm": "no change waits to be confirmed",
    "POST /api/ek/import": "wants a file of GET /api/ek/export",
    "POST /api/ek/revert": "wants a revision that can be undone",
    "POST /login": "wants the password",
    "PUT /api/useraccount": "wants the password",
    "POST /api/virtualservice/{uuid}/scaleout": "there are no engines",
    "POST /api/virtualservice/{uuid}/scalein": "there are no engines",
    "POST /api/virtualservice/{uuid}/migrate": "there are no engines",
    "POST /api/virtualservice/{uuid}/switchover": "there are no engines",
    "POST /api/serviceenginegroup/{uuid}/redistribute": "the groups are no active/standby pairs",
    "POST /api/pool/{uuid}/scalein": "pools have the servers that are written into them",
    "POST /api/pool/{uuid}/scaleout": "pools have the servers that are written into them",
    "POST /api/virtualservice/{uuid}/resync": "the virtual services have no VIP",
    "POST /api/virtualservice/{uuid}/retryplacement": "the virtual services have no VIP",
    "POST /api/virtualservice/{uuid}/rotatekeys": "the virtual services have no VIP",
    "POST /api/serviceengine/{uuid}/flowtable/clear": "a flow table has no counters",
    "POST /api/serviceengine/{uuid}/flowtablestat/clear": "there are no engines",
    "POST /api/serviceengine/{uuid}/interface/clear": "there are no engines",
    "POST /api/serviceengine/{uuid}/reboot": "there are no engines",
}

# Objects of these types are there, so that calls by uuid find something. The admin is not among them: his session is the run's.
OBJECTS = {
    "tenant": {},
    "role": {"privileges": [{"resource": "PERMISSION_POOL", "type": "READ_ACCESS"}]},
    "user": {"password": "some password"},
    "cloud": {"vtype": "CLOUD_NONE"},
    "vrfcontext": {},
    "serviceenginegroup": {},
    "serviceengine": {},
    "network": {},
    "vsvip": {"vip": [{"vip_id": "1", "ip_address": {"addr": "203.0.113.7NUMBER", "type": "V4"}}]},
    "pool": {"servers": [{"ip": {"addr": "10.0.0.1", "type": "V4"}}]},
    "poolgroup": {},
    "healthmonitor": {"type": "HEALTH_MONITOR_TCP"},
    "networkprofile": {"profile": {"type": "PROTOCOL_TYPE_TCP_PROXY"}},
    "applicationprofile": {"type": "APPLICATION_PROFILE_TYPE_L4"},
    "virtualservice": {"services": [{"port": 80}]},
    "applicationpersistenceprofile": {"persistence_type": "PERSISTENCE_TYPE_CLIENT_IP_ADDRESS", "ip_persistence_profile": {}},
    "analyticsprofile": {},
    "sslkeyandcertificate": {"certificate": {"self_signed": True, "subject": {"common_name": "c"}}},
    "sslprofile": {"accepted_versions": [{"type": "SSL_VERSION_TLS1_3"}]},
    "ipamdnsproviderprofile": {"type": "IPAMDNS_TYPE_INTERNAL", "internal_profile": {"usable_networks": []}},
    "networkservice": {
        "service_type": "ROUTING_SERVICE", "se_group_ref": "/api/serviceenginegroup?name=Default-Group",
        "vrf_ref": "/api/vrfcontext?name=global", "routing_service": {},
    },
    "actiongroupconfig": {"level": "ALERT_LOW", "external_only": False},
    # A login is an alert of each of them.
    "alertconfig": {"source": "EVENT_LOGS", "alert_rule": {"sys_event_rule": [{"event_id": "USER_LOGIN"}]}},
    "useraccountprofile": {},
}


class Fuzz(ControllerTest):
    def setUp(self):
        self.session = requests.Session()
        self.session.verify = False
        self.session.trust_env = False
        self.session.headers["Referer"] = self.controller.url
        self.log_in()
        self.session.headers["X-CSRFToken"] = self.session.cookies["csrftoken"]
        self.addCleanup(self.session.close)
        self.document = self.call("GET", "/api/ek/openapi")

    def log_in(self):
        reply = self.session.post(
            f"{self.controller.url}/login", json={"username": USER, "password": PASSWORD}, timeout=30
        )
        self.assertEqual(reply.status_code, 200, reply.text)

    def call(self, method, path, **arguments):
        reply = self.session.request(method, self.controller.url + path, timeout=30, **arguments)
        self.assertLess(reply.status_code, 300, f"{method} {path}: {reply.text}")
        return reply.json()

    def operations(self):
        """(method, path, what the document says) of every operation."""
        for path, methods in self.document["paths"].items():
            for method, operation in methods.items():
                yield method, path, operation

    def run_schemathesis(self, *arguments, headers=()):
        """Fails with what it says when a check fails."""
        document = self.controller.path / "openapi.json"
        document.write_text(json.dumps(self.document))
        (self.controller.path / "uuids.json").write_text(json.dumps(getattr(self, "uuids", {})))
        command = [
            str(pathlib.Path(sys.executable).parent / "schemathesis"), "run", str(document),
            "--url", self.controller.url, "--tls-verify", "false", "--checks", CHECKS, "--seed", SEED,
            "--max-examples", EXAMPLES, "--workers", "2", "--request-timeout", "30", "--no-shrink", "--continue-on-failure",
            "--suppress-health-check", "all", "--generation-database", "none", "--warnings", "off", "--no-color",
            "--output-sanitize", "false", "--generation-with-security-parameters", "false", *arguments,
        ]
        for name, value in headers:
            command += ["--header", f"{name}: {value}"]
        environment = os.environ | {
            "SCHEMATHESIS_HOOKS": str(HERE / "schemathesis_hooks.py"),
            "EVENKEEL_UUIDS": str(self.controller.path / "uuids.json"),
            "EVENKEEL_ANSWERS": str(self.controller.path / "answers.json"),
        }
        began = time.monotonic()
        # In a folder of its own: what it writes beside itself is gone afterwards.
        done = subprocess.run(
            command, cwd=self.controller.path, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        said = done.stdout
        if path := os.environ.get("EVENKEEL_FUZZ_LOG"):
            pathlib.Path(path).write_text(said)
        self.assertEqual(done.returncode, 0, said[-20_000:])
        self.assertIsNone(self.controller.process.poll(), "the controller has ended")
        counted = re.search(r"(\d+) generated, (\d+) passed", said)
        print(f"schemathesis: {counted.group(0) if counted else said[-300:]}, {time.monotonic() - began:.0f} s", file=sys.stderr)
        return json.loads((self.controller.path / "answers.json").read_text())


class Session(Fuzz):
    def make(self, kind, number):
        fields = json.loads(json.dumps(OBJECTS[kind]).replace("NUMBER", str(number)))
        return self.call("POST", f"/api/{kind}", json={"name": f"known {kind} {number}"} | fields)["uuid"]

    def alerts(self):
        """As many as there are objects of a type, raised by a login."""
        self.log_in()
        self.session.headers["X-CSRFToken"] = self.session.cookies["csrftoken"]
        found = wait_for("alerts", lambda: self.call("GET", "/api/alert")["results"], lambda found: len(found) >= 3)
        return [alert["uuid"] for alert in found]

    def test_every_answer_is_one_that_the_document_has(self):
        known = {operation["operationId"] for _, _, operation in self.operations()}
        self.assertLessEqual(set(LEFT_OUT), known, "left out, but not there")
        types = {path.split("/")[2] for method, path, _ in self.operations() if method == "post" and path.count("/") == 2}
        self.assertLessEqual(types - set(OBJECTS), {"user-token"}, "plant objects of these types, too")
        self.uuids = {kind: [self.make(kind, number) for number in range(3)] for kind in OBJECTS}
        self.uuids["alert"] = self.alerts()
        cookies = "; ".join(f"{name}={value}" for name, value in self.session.cookies.items())
        headers = [
            ("Cookie", cookies), ("X-CSRFToken", self.session.cookies["csrftoken"]), ("Referer", self.controller.url),
        ]
        left_out = [word for name in LEFT_OUT for word in ("--exclude-operation-id", name)]
        answers = self.run_schemathesis("--phases", PHASES, *left_out, headers=headers)
        self.assertEqual(len(answers), len(list(self.operations())) - len(LEFT_OUT))
        # What was tested was not a row of refusals.
        good = {name for name, statuses in answers.items() if any(s.startswith("2") for s in statuses)}
        never = sorted(set(answers) - good - set(REFUSED))
        self.assertLess(len(never), len(answers) // 20, f"never done: {never}")


class Basic(Fuzz):
    def test_with_a_password_in_each_call(self):
        settings = self.call("GET", "/api/systemconfiguration")
        settings["portal_configuration"] = {"allow_basic_authentication": True}
        self.call("PUT", "/api/systemconfiguration", json=settings)
        some = ["post_logout", "get_cluster", "get_pool", "post_networkservice", "get_ek_audit"]
        chosen = [word for name in some for word in ("--include-operation-id", name)]
        word = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        self.run_schemathesis("--phases", "fuzzing", *chosen, headers=[("Authorization", f"Basic {word}")])


class Nobody(Fuzz):
    def test_without_credentials_every_operation_but_the_public_ones_is_401(self):
        for method, path, operation in self.operations():
            if operation.get("security") == []:
                continue
            with self.subTest(f"{method} {path}"):
                where = self.controller.url + re.sub(r"{\w+}", "x", path)
                refused = requests.request(method, where, json={}, verify=False, timeout=30)
                self.assertEqual(refused.status_code, 401, refused.text)
                self.assertEqual(list(refused.json()), ["error"])

