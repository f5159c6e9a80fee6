"""What a real router makes of what avisdk and Ansible configure: a lab with FRR, three engines and one VIP route to look at."""

import atexit
import json
import os
import pathlib
import subprocess
import sys
import tomllib
import unittest

from ansible_run import HERE, play
from controller import EVENKEEL, wait_for

TOPOLOGY = HERE.parent / "topologies" / "svi-24"
VIP = "10.100.0.7/32"
SECRET = "for-this-lab-only"


class Lab:
    """A lab of our own beside those of others, as long as it is open."""

    def __init__(self):
        self.id = f"c{os.getpid()}"
        atexit.register(self.close)
        self.run("up", str(TOPOLOGY), "--run", self.id)
        context = pathlib.Path(f"/run/evenkeel/lab/{self.id}/context.toml")
        self.context = tomllib.loads(context.read_text())

    def run(self, *arguments):
        done = subprocess.run([EVENKEEL, "lab", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=120)
        if done.returncode != 0:
            raise AssertionError(f"lab {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def vtysh(self, *commands):
        return self.run("exec", "--run", self.id, "router", "vtysh", *[word for c in commands for word in ("-c", c)])

    def paths(self):
        """FRR's paths to the VIP, by next hop."""
        shown = json.loads(self.vtysh(f"show bgp ipv4 unicast {VIP} json"))
        return {hop["ip"]: path for path in shown.get("paths", []) for hop in path["nexthops"]}

    def kernel_route(self):
        return self.run("exec", "--run", self.id, "router", "ip", "route", "show", VIP)

    def close(self):
        atexit.unregister(self.close)
        subprocess.run([EVENKEEL, "lab", "down", "--run", self.id], capture_output=True, timeout=120)


def obstacle():
    if os.geteuid() != 0:
        return "needs root: it makes network namespaces"
    missing = [p for p in ("/usr/lib/frr/zebra", "/usr/lib/frr/bgpd") if not pathlib.Path(p).exists()]
    return f"{missing[0]} is missing: make deps" if missing else None


class Routes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if why := obstacle():
            if os.environ.get("CI"):
                raise AssertionError(f"CI must run this: {why}")
            raise unittest.SkipTest(why)
        cls.lab = Lab()
        cls.addClassCleanup(cls.lab.close)

    def play(self, playbook, **variables):
        context = self.lab.context
        address = context["controller"].removeprefix("https://")
        return play(f"lab/{playbook}.yml", address, context["username"], context["password"], context["netns"],
                    **variables)

    def switch_by_avisdk(self, state):
        context = self.lab.context
        command = ["ip", "netns", "exec", context["netns"], sys.executable, HERE / "sdk_switch.py",
                   context["controller"].removeprefix("https://"), context["password"], "clients-service", state]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.stdout, f"200 {state == 'on'}\n", done.stderr)

    def wait_for_hops(self, count):
        """The paths, once there are so many."""
        return wait_for(f"{count} paths to {VIP}", self.lab.paths, lambda paths: len(paths) == count)

    def wait_for_attribute(self, name, value):
        """The only path, once it has this value."""
        def holds(paths):
            return len(paths) == 1 and all(p.get(name) == value for p in paths.values())
        (path,) = wait_for(f"{name} {value} on {VIP}", self.lab.paths, holds).values()
        return path

    def test_the_router_follows_what_the_clients_write(self):
        self.assertEqual(self.lab.paths(), {})
        self.play("setup")
        path = self.wait_for_attribute("locPrf", 222)
        self.assertEqual(path["community"]["string"], "65001:77")
        self.assertEqual(path["largeCommunity"]["string"], "65001:1:2")

        self.play("scale", action="scaleout")
        self.wait_for_hops(2)
        wait_for("two next hops in the kernel", self.lab.kernel_route, lambda route: route.count("nexthop") == 2)
        self.play("scale", action="scalein")
        self.wait_for_hops(1)

        self.play("enabled", enabled=False)
        self.wait_for_hops(0)
        self.play("enabled", enabled=True)
        self.wait_for_hops(1)
        self.switch_by_avisdk("off")
        self.wait_for_hops(0)
        self.switch_by_avisdk("on")
        self.wait_for_hops(1)

        # The router asks for a secret: without it the sessions end, and stay down.
        self.lab.vtysh("configure terminal", "router bgp 65001", f"neighbor SE password {SECRET}")
        self.wait_for_hops(0)
        self.play("attributes", secret=SECRET)
        path = self.wait_for_attribute("locPrf", 50)
        self.assertEqual(path["community"]["string"], "no-export")
        self.assertNotIn("largeCommunity", path)

        self.play("absent")
        self.wait_for_hops(0)
        wait_for("no route in the kernel", self.lab.kernel_route, lambda route: not route)
