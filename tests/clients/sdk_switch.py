"""Reads a virtual service with avisdk, and puts it back with `enabled` set: run by test_lab.py in the lab's network.

Usage: sdk_switch.py CONTROLLER PASSWORD VIRTUAL_SERVICE on|off
"""

import sys

from avi.sdk.avi_api import ApiSession

controller, password, name, state = sys.argv[1:]
api = ApiSession.get_session(controller, "admin", password=password, tenant="admin", api_version="30.2.1")
service = api.get_object_by_name("virtualservice", name)
service["enabled"] = state == "on"
answer = api.put_by_name("virtualservice", name, data=service)
print(answer.status_code, answer.json()["enabled"])
