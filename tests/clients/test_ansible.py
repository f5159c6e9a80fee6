"""Ansible's modules (community.network) of others: what counts as changed (contract section 4.2), and actions (section 9)."""

from ansible_run import HERE, play
from avi.sdk.avi_api import ApiSession
from controller import API_VERSION, PASSWORD, USER, ControllerTest


class AnsibleTest(ControllerTest):
    def play(self, playbook, **variables):
        return play(playbook, self.controller.address, USER, PASSWORD, **variables)


class Series(AnsibleTest):
    """Changed, unchanged, changed field, unchanged, absent, absent again: every playbook of the folder, by both methods."""

    def run_series(self, name, method):
        self.assertGreaterEqual(len(self.play(f"series/{name}.yml", method=method)), 6)


def add_series(name, method):
    setattr(Series, f"test_{name}_by_{method}", lambda self: self.run_series(name, method))


for path in sorted(HERE.glob("playbooks/series/*.yml")):
    add_series(path.stem, "put")
    add_series(path.stem, "patch")


class Plays(AnsibleTest):
    def test_calls_that_are_no_objects(self):
        tasks = self.play("session.yml")
        self.assertEqual(tasks["unchanged: the controller's version"]["obj"]["Version"], API_VERSION)
        self.assertEqual(tasks["unchanged: an action's path can be read"]["obj"], {"count": 0, "results": []})

    def test_fields_that_are_absent_or_unknown(self):
        tasks = self.play("fields.yml")
        self.assertNotIn("bgp_profile", tasks["changed: the profile is absent"]["obj"])
        other = "changed: another value of one, and the other is back to what it is by default"
        self.assertNotIn("description", tasks[other]["obj"])
        server = tasks["changed: fields that the controller does not know are kept"]["obj"]["servers"][0]
        self.assertEqual(server["x_unknown"], {"a": [1, {"b": False}]})

    def test_operations_of_a_patch(self):
        tasks = self.play("patch.yml")
        servers = tasks["unchanged: it is deleted already"]["obj"]["servers"]
        self.assertEqual([s["ip"]["addr"] for s in servers], ["10.0.0.2"])
        self.assertEqual(tasks["changed: a path and a value"]["obj"]["servers"][0]["ratio"], 3)
        self.assertNotIn("description", tasks["unchanged: the path is taken away"]["obj"])
        routes = tasks["unchanged: a message field is deleted"]["obj"]
        self.assertEqual((len(routes["static_routes"]), "bgp_profile" in routes), (1, False))

    def test_tenants(self):
        self.play("tenant.yml")

    def test_credentials_and_sessions(self):
        port = self.controller.port
        unknown = {f"127.0.0.1:{USER}:{port}": {"session_id": "unknown", "csrftoken": "unknown"}}
        self.play("credentials.yml", host="127.0.0.1", port=port, caller=USER, word=PASSWORD, unknown=unknown)
