"""avisdk, the Python client of others, in every way that its users have (contract sections 2, 3, 4.1, 5, 6, 7, 9).

What a call puts on the wire is asserted beside what it gives, so that a newer avisdk that does something else is noticed.
"""

import base64
import contextlib
import unittest.mock

import requests
from avi.sdk.avi_api import APIError, ApiSession, AviServerError, ObjectNotFound
from controller import API_VERSION, PASSWORD, USER, ControllerTest

CSRF_REFUSED = "CSRF token missing or incorrect."


@contextlib.contextmanager
def wire():
    """The calls that go out meanwhile, as `METHOD /path?query`."""
    calls = []
    send = requests.adapters.HTTPAdapter.send

    def record(self, request, **kwargs):
        calls.append(f"{request.method} {request.path_url}")
        return send(self, request, **kwargs)

    with unittest.mock.patch.object(requests.adapters.HTTPAdapter, "send", record):
        yield calls


class SdkTest(ControllerTest):
    def setUp(self):
        ApiSession.clear_cached_sessions()
        self.api = self.session()

    def session(self, **settings):
        settings = {"password": PASSWORD, "tenant": "admin", "api_version": API_VERSION} | settings
        return ApiSession.get_session("127.0.0.1", USER, port=self.controller.port, **settings)

    def make(self, path, **data):
        made = self.api.post(path, data=data)
        self.assertEqual(made.status_code, 201, made.text)
        self.addCleanup(self.api.delete, f"{path}/{made.json()['uuid']}")
        return made.json()

    def raw(self, method, path, cookies=None, body=None, **headers):
        """A call without any manners of a client."""
        headers = {"Content-Type": "application/json", "Referer": self.controller.url} | headers
        if cookies:
            headers["Cookie"] = cookies
        return requests.request(
            method, self.controller.url + path, headers=headers, data=body, verify=False, timeout=30
        )

    def cookies(self, api=None):
        """The cookies of a session, as a header."""
        context = (api or self.api).get_context()
        return "avi-sessionid={0}; sessionid={0}; csrftoken={1}".format(context["session_id"], context["csrftoken"])


class Tokens(SdkTest):
    def test_a_token_logs_in_until_it_is_revoked(self):
        made = self.api.post("user-token", data={"hours": 1, "name": "sdk"})
        self.assertEqual(made.status_code, 201, made.text)
        token = made.json()
        with wire() as calls:
            api = self.session(password=None, token=token["token"])
            self.assertEqual(api.get("pool").status_code, 200)
        self.assertEqual(calls, ["POST /login", "GET /api/pool"])
        self.assertEqual(self.api.delete(f"user-token/{token['uuid']}").status_code, 204)
        with self.assertRaises(APIError):
            api.get("pool")
        ApiSession.clear_cached_sessions()
        with self.assertRaises(APIError):
            self.session(password=None, token=token["token"])


class Sessions(SdkTest):
    def test_a_session_is_one_login_and_is_cached(self):
        with wire() as calls:
            api = self.session(tenant="admin", password=PASSWORD, timeout=31)
            self.assertEqual(calls, [])  # the one of setUp
            self.assertIs(api, self.api)
        ApiSession.delete_session(api)
        with wire() as calls:
            self.session()
        self.assertEqual(calls, ["POST /login"])
        self.assertEqual(self.api.remote_api_version["Version"], API_VERSION)

    def test_a_lazy_session_logs_in_at_its_first_call(self):
        self.api.delete_session()
        with wire() as calls:
            api = ApiSession(
                "127.0.0.1", USER, password=PASSWORD, port=self.controller.port, lazy_authentication=True
            )
            self.assertEqual(calls, [])
            self.assertEqual(api.get("pool").json()["count"], 0)
        self.assertEqual(calls, ["POST /login", "GET /api/pool"])

    def test_the_address_may_hold_the_port(self):
        api = ApiSession.get_session(self.controller.address, USER, password=PASSWORD)
        self.assertEqual(api.get("pool").status_code, 200)

    def test_a_wrong_password_is_401_invalid_credentials(self):
        with wire() as calls, self.assertRaises(APIError) as refused:
            self.session(password="wrong")
        self.assertEqual(calls, ["POST /login"])
        self.assertEqual(refused.exception.rsp.status_code, 401)
        self.assertEqual(refused.exception.rsp.json(), {"error": "Invalid credentials"})

    def test_a_session_that_the_server_dropped_is_renewed(self):
        before = self.api.get_context()
        self.assertEqual(self.raw("POST", "/logout", self.cookies()).status_code, 200)
        with wire() as calls:
            self.assertEqual(self.api.get("pool").status_code, 200)
        self.assertEqual(calls, ["GET /api/pool", "POST /login", "GET /api/pool"])
        self.assertNotEqual(self.api.get_context(), before)
        self.assertEqual(self.make("pool", name="after")["name"], "after")

    def test_a_controller_that_was_restarted_knows_no_session_and_gets_a_new_one(self):
        self.controller.stop()
        self.controller.start()
        with wire() as calls:
            self.assertEqual(self.make("pool", name="restarted")["name"], "restarted")
        self.assertIn("POST /login", calls)
        self.assertEqual(calls[-1], "POST /api/pool")

    def test_a_logout_ends_the_session(self):
        cookies = self.cookies()
        self.assertEqual(self.raw("GET", "/api/pool", cookies).status_code, 200)
        self.assertEqual(self.api.post("logout").status_code, 200)
        self.assertEqual(self.raw("GET", "/api/pool", cookies).status_code, 401)

    def test_a_write_without_the_csrf_token_is_401_with_plain_text(self):
        body = '{"name": "forged"}'
        token = self.api.get_context()["csrftoken"]
        cases = {
            "missing": {},
            "wrong": {"X-CSRFToken": "x" * len(token)},
            "from another site": {"X-CSRFToken": token, "Referer": "https://elsewhere.example"},
        }
        for what, headers in cases.items():
            for method, path in [("POST", "/api/pool"), ("PUT", "/api/pool/x"), ("PATCH", "/api/pool/x"),
                                 ("DELETE", "/api/pool/x")]:
                with self.subTest(what, method=method):
                    refused = self.raw(method, path, self.cookies(), body, **headers)
                    self.assertEqual((refused.status_code, refused.text), (401, CSRF_REFUSED))
                    self.assertEqual(refused.headers["Content-Type"], "application/json")
        self.assertIsNone(self.api.get_object_by_name("pool", "forged"))
        with self.assertRaises(APIError) as refused:  # it tries again with new sessions, and gives up
            self.api.post("pool", data={"name": "forged"}, headers={"X-CSRFToken": ""})
        self.assertIn(CSRF_REFUSED, str(refused.exception))

    def test_an_unknown_cookie_and_none_are_401(self):
        for cookies in ["avi-sessionid=unknown; sessionid=unknown; csrftoken=x", "avi-sessionid=", None]:
            with self.subTest(cookies):
                refused = self.raw("GET", "/api/pool", cookies)
                self.assertEqual(refused.status_code, 401)
                self.assertTrue(refused.json()["error"])

    def test_of_cookies_that_come_twice_the_last_counts(self):
        good, stale = self.cookies(), "avi-sessionid=stale; sessionid=stale; csrftoken=stale"
        self.assertEqual(self.raw("GET", "/api/pool", f"{stale}; {good}").status_code, 200)
        self.assertEqual(self.raw("GET", "/api/pool", f"{good}; {stale}").status_code, 401)
        # That is what avisdk does: the jar's, and those of the call.
        sent = self.api.get("pool").request.headers["Cookie"]
        self.assertEqual(sent.count("avi-sessionid="), 2, sent)

    def test_every_answer_renews_the_session_cookies(self):
        answer = self.api.get("pool")
        session_id = self.api.get_context()["session_id"]
        self.assertEqual({c.name: c.value for c in answer.cookies if "session" in c.name},
                         {"avi-sessionid": session_id, "sessionid": session_id})
        self.assertTrue(all(c.secure and c.has_nonstandard_attr("HttpOnly") for c in answer.cookies))
        self.assertEqual(answer.headers["AVI_API_VERSION"], API_VERSION)

    def test_basic_works_only_when_the_settings_allow_it(self):
        word = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        self.api.delete_session()
        basic = ApiSession(
            "127.0.0.1", USER, port=self.controller.port, tenant="admin", user_hdrs={"Authorization": f"Basic {word}"}
        )
        with self.assertRaises(APIError) as refused:
            basic.get("pool")
        self.assertEqual(refused.exception.rsp.status_code, 401)
        self.api = self.session()
        self.allow_basic(True)
        self.addCleanup(self.allow_basic, False)
        with wire() as calls:
            made = basic.post("pool", data={"name": "by basic"})
            self.assertEqual(made.status_code, 201, made.text)
            self.assertEqual(basic.delete(f"pool/{made.json()['uuid']}").status_code, 204)
        self.assertEqual([c.split()[0] for c in calls], ["POST", "DELETE"])
        self.assertEqual(made.cookies["sessionid"], "None")
        wrong = self.raw("GET", "/api/pool", Authorization="Basic " + base64.b64encode(b"admin:no").decode())
        self.assertEqual((wrong.status_code, wrong.json()), (401, {"error": "Invalid credentials"}))

    def allow_basic(self, allowed):
        settings = self.api.get("systemconfiguration").json()
        settings["portal_configuration"] = {"allow_basic_authentication": allowed}
        self.assertEqual(self.api.put("systemconfiguration", data=settings).status_code, 200)

    def test_a_version_above_ours_is_refused_and_an_older_one_is_not(self):
        for version in ["30.2.2", "99.1.1", "nonsense"]:
            with self.subTest(version), self.assertRaisesRegex(AviServerError, "Invalid version"):
                self.api.get_object_by_name("pool", "p", api_version=version)
        for version in ["16.4.4", "18.2.6", "20.1.1", API_VERSION]:
            with self.subTest(version):
                self.assertIsNone(self.api.get_object_by_name("pool", "p", api_version=version))
        self.assertEqual(self.api.get("pool", api_version="99.1.1").status_code, 400)

    def test_what_needs_no_session(self):
        for path in ["//api/cluster/status", "//api/initial-data"]:
            self.assertEqual(self.raw("GET", path).status_code, 200, path)
        self.assertEqual(self.raw("GET", "/api/initial-data").json()["version"]["Version"], API_VERSION)


class Objects(SdkTest):
    def test_an_object_lives_from_post_to_delete(self):
        made = self.api.post("pool", data={"name": "p1", "default_server_port": 8080})
        self.assertEqual(made.status_code, 201)
        pool = made.json()
        path = f"pool/{self.api.get_obj_uuid(made)}"
        self.assertEqual(self.api.get_obj_ref(made), f"{self.controller.url}/api/{path}#p1")
        self.assertEqual(made.headers["Location"], f"{self.controller.url}/api/{path}#p1")
        with wire() as calls:
            read = self.api.get(path, params={"include_name": True}).json()
        self.assertEqual(calls, [f"GET /api/{path}?include_name=True"])
        self.assertTrue(read["cloud_ref"].endswith("#Default-Cloud"), read["cloud_ref"])
        self.assertNotIn("#", self.api.get(path).json()["cloud_ref"])

        read["default_server_port"] = 8081
        put = self.api.put(path, data=read)
        self.assertEqual((put.status_code, put.json()["default_server_port"]), (200, 8081))
        self.assertGreater(int(put.json()["_last_modified"]), int(pool["_last_modified"]))
        stale = self.api.put(path, data=read)
        self.assertEqual(stale.status_code, 412)
        self.assertIn("Need to reload object data Pool", stale.text)

        server = {"ip": {"addr": "10.0.0.1", "type": "V4"}, "port": 80}
        added = self.api.patch(path, data={"add": {"servers": [server]}}).json()
        self.assertEqual([s["hostname"] for s in added["servers"]], ["10.0.0.1"])
        off = self.api.patch(path, data={"replace": {"servers": [server | {"enabled": False}]}}).json()
        self.assertEqual([s["enabled"] for s in off["servers"]], [False])
        self.assertFalse(self.api.patch(path, data={"delete": {"servers": [server]}}).json().get("servers"))

        deleted = self.api.delete(path)
        self.assertEqual((deleted.status_code, deleted.text), (204, ""))
        gone = self.api.get(path)
        self.assertEqual(gone.status_code, 404)
        with self.assertRaisesRegex(ObjectNotFound, "Pool object not found"):
            gone.json()

    def test_a_collection_has_a_count_and_pages_that_an_iterator_follows(self):
        names = [f"page-{i}" for i in range(5)]
        for name in names:
            self.make("pool", name=name)
        self.assertEqual(self.api.get("pool").count(), 5)
        with wire() as calls:
            found = self.api.get_objects_iter("pool", params={"page_size": 2})
            self.assertEqual(sorted(p["name"] for p in found), names)
        self.assertEqual(calls, ["GET /api/pool?page_size=2", "GET /api/pool?page_size=2&page=2",
                                 "GET /api/pool?page_size=2&page=3"])
        first, last = (self.api.get("pool", params={"page_size": 2, "page": n}).json() for n in (1, 3))
        self.assertEqual((first["count"], len(first["results"]), "next" in first), (5, 2, True))
        self.assertEqual((last["count"], len(last["results"]), "next" in last), (5, 1, False))
        with wire() as calls:
            self.assertEqual(len(list(self.api.get_objects_iter("pool"))), 5)
        self.assertEqual(calls, ["GET /api/pool?page_size=100"])
        self.assertEqual(self.api.get("pool", params={"page": 9}).json()["results"], [])

    def test_an_iterator_over_a_single_object_gives_that(self):
        self.assertEqual([c["name"] for c in self.api.get_objects_iter("cluster")],
                         [self.api.get("cluster").json()["name"]])

    def test_objects_are_found_replaced_and_deleted_by_name(self):
        made = self.api.post("pool", data={"name": "by name"}).json()
        with wire() as calls:
            found = self.api.get_object_by_name("pool", "by name")
        self.assertEqual((calls, found["uuid"]), (["GET /api/pool?name=by+name"], made["uuid"]))
        with wire() as calls:
            put = self.api.put_by_name("pool", "by name", data=found | {"default_server_port": 99})
        self.assertEqual(calls, ["GET /api/pool?name=by+name", f"PUT /api/pool/{made['uuid']}"])
        self.assertEqual((put.status_code, put.json()["default_server_port"]), (200, 99))
        with wire() as calls:
            self.assertEqual(self.api.delete_by_name("pool", "by name").status_code, 204)
        self.assertEqual(calls, ["GET /api/pool?name=by+name", f"DELETE /api/pool/{made['uuid']}"])

    def test_a_name_that_is_not_there_is_none_and_deletes_nothing(self):
        self.assertIsNone(self.api.get_object_by_name("pool", "none"))
        with wire() as calls:
            for act in (self.api.delete_by_name, self.api.put_by_name):
                with self.assertRaises(ObjectNotFound):
                    act("pool", "none")
        self.assertEqual(calls, ["GET /api/pool?name=none"] * 2)
        self.assertEqual(self.api.get("pool", params={"name": "none"}).count(), 0)

    def test_singletons_are_taken_as_the_object(self):
        self.assertEqual(self.api.get_object_by_name("systemconfiguration", "x")["uuid"], "default")
        self.assertEqual(self.api.get("cluster/version").json()["Version"], API_VERSION)
        self.assertEqual(self.api.get("cluster/runtime").json()["cluster_state"]["state"], "CLUSTER_UP_NO_HA")

    def test_a_new_object_gets_the_uuid_that_was_asked_for(self):
        made = self.api.post("pool", data={"name": "mine"}, force_uuid="pool-mine")
        self.addCleanup(self.api.delete, "pool/pool-mine")
        self.assertEqual(made.request.headers["Slug"], "pool-mine")
        self.assertEqual((made.status_code, made.json()["uuid"]), (201, "pool-mine"))
        self.assertEqual(self.api.get("pool/pool-mine").json()["name"], "mine")
        twice = self.api.post("pool", data={"name": "other"}, force_uuid="pool-mine")
        self.assertEqual(twice.status_code, 409, twice.text)

    def test_slashes_may_be_doubled_and_trail(self):
        uuid = self.make("pool", name="slashes")["uuid"]
        for path in ["/pool", "pool/", "//pool//"]:
            self.assertEqual(self.api.get(path, params={"name": "slashes"}).count(), 1, path)
        for path in [f"/pool/{uuid}", f"pool//{uuid}/"]:
            self.assertEqual(self.api.get(path).json()["uuid"], uuid, path)
        self.assertEqual(self.api.patch(f"/pool//{uuid}", data={"replace": {"enabled": False}}).status_code, 200)

    def test_a_refusal_is_an_api_error_with_the_text(self):
        self.make("pool", name="twice")
        twice = self.api.post("pool", data={"name": "twice"})
        self.assertEqual(twice.status_code, 409)
        with self.assertRaisesRegex(APIError, "twice.*exists already"):
            twice.json()
        system = self.api.get_object_by_name("healthmonitor", "System-TCP")
        kept = self.api.delete(f"healthmonitor/{system['uuid']}")
        self.assertEqual(kept.status_code, 403)
        self.assertIn("Cannot delete system default object", kept.text)
        not_allowed = self.api.delete("systemconfiguration")
        self.assertEqual(not_allowed.status_code, 405)
        self.assertIn("Method 'DELETE' not allowed", not_allowed.text)

    def test_a_virtual_service_with_its_parts_by_reference(self):
        pool = self.make("pool", name="vs-pool", servers=[{"ip": {"addr": "10.0.0.1", "type": "V4"}}])
        vip = {"vip_id": "1", "ip_address": {"addr": "10.9.9.9", "type": "V4"}}
        vsvip = self.make("vsvip", name="vs-vip", vip=[vip])
        service = self.make(
            "virtualservice", name="vs", services=[{"port": 80}], enable_rhi=True, pool_ref=self.api.get_obj_ref(pool),
            vsvip_ref="/api/vsvip?name=vs-vip", application_profile_ref="/api/applicationprofile?name=System-L4-Application",
        )
        self.assertEqual((service["pool_ref"], service["vsvip_ref"]), (pool["url"], vsvip["url"]))
        self.assertEqual(service["services"][0]["port_range_end"], 80)
        refused = self.api.delete_by_name("pool", "vs-pool")
        self.assertEqual(refused.status_code, 409)
        self.assertIn("Cannot delete, object is referred by: ['VirtualService vs']", refused.text)
        off = self.api.patch(f"virtualservice/{service['uuid']}", data={"replace": {"enabled": False}})
        self.assertIs(off.json()["enabled"], False)

    def test_a_vip_gets_its_address_from_a_network_and_keeps_it(self):
        begin, end = ({"addr": f"10.9.0.{n}", "type": "V4"} for n in (10, 11))
        subnet = {"prefix": {"ip_addr": {"addr": "10.9.0.0", "type": "V4"}, "mask": 24},
                  "static_ip_ranges": [{"range": {"begin": begin, "end": end}, "type": "STATIC_IPS_FOR_VIP"}]}
        network = self.make("network", name="front", configured_subnets=[subnet])
        vip = {"vip_id": "1", "auto_allocate_ip": True, "ipam_network_subnet": {"network_ref": self.api.get_obj_ref(network)}}
        vsvip = self.make("vsvip", name="auto", vip=[vip])
        self.assertEqual((vsvip["vip"][0]["ip_address"], vsvip["vip"][0]["avi_allocated_vip"]), (begin, True))
        put = self.api.put_by_name("vsvip", "auto", data={"name": "auto", "vip": [vip]})
        self.assertEqual((put.status_code, put.json()["vip"][0]["ip_address"]), (200, begin), put.text)
        self.assertEqual(self.make("vsvip", name="auto 2", vip=[vip])["vip"][0]["ip_address"], end)
        refused = self.api.post("vsvip", data={"name": "auto 3", "vip": [vip]})
        self.assertEqual(refused.status_code, 400)
        self.assertIn("No available free IPs", refused.text)


class Tenants(SdkTest):
    def setUp(self):
        super().setUp()
        self.blue = self.make("tenant", name="blue")["uuid"]
        self.make("tenant", name="red")

    def test_objects_of_a_tenant_are_not_seen_from_another(self):
        made = self.api.post("pool", data={"name": "in blue"}, tenant="blue")
        self.assertEqual(made.request.headers["X-Avi-Tenant"], "blue")
        self.assertEqual(made.status_code, 201, made.text)
        self.addCleanup(self.api.delete, f"pool/{made.json()['uuid']}", tenant="blue")
        self.assertTrue(made.json()["tenant_ref"].endswith(f"/api/tenant/{self.blue}#blue"), made.text)
        seen = {t: self.api.get("pool", tenant=t).count() for t in ("blue", "red", "admin", "*")}
        self.assertEqual(seen, {"blue": 1, "red": 0, "admin": 0, "*": 1})
        self.assertIsNone(self.api.get_object_by_name("pool", "in blue", tenant="red"))
        by_uuid = self.api.get("pool", tenant_uuid=self.blue)
        self.assertEqual((by_uuid.request.headers["X-Avi-Tenant-UUID"], by_uuid.count()), (self.blue, 1))

    def test_a_session_may_be_one_of_a_tenant(self):
        blue = self.session(tenant="blue")
        made = blue.post("pool", data={"name": "of the session"})
        self.assertEqual(made.status_code, 201, made.text)
        self.addCleanup(blue.delete, f"pool/{made.json()['uuid']}")
        self.assertEqual(self.api.get("pool").count(), 0)
        # The same name is free elsewhere.
        self.assertEqual(self.make("pool", name="of the session")["name"], "of the session")

    def test_what_the_system_has_is_seen_from_every_tenant(self):
        for kind, name in [("healthmonitor", "System-TCP"), ("vrfcontext", "global"), ("cloud", "Default-Cloud")]:
            self.assertIsNotNone(self.api.get_object_by_name(kind, name, tenant="blue"), kind)

    def test_an_unknown_tenant_is_403_with_its_name(self):
        refused = self.api.get("pool", tenant="green")
        self.assertEqual(refused.status_code, 403)
        self.assertIn("Tenant 'green' does not exist!", refused.text)


class Actions(SdkTest):
    def test_a_scale_out_without_engines_is_refused_in_words(self):
        vip = {"vip_id": "1", "ip_address": {"addr": "10.9.9.9", "type": "V4"}}
        service = self.make("virtualservice", name="vs", services=[{"port": 80}], vip=[vip])
        path = f"virtualservice/{service['uuid']}"
        for body in [{}, {"vip_id": "1"}, None]:
            refused = self.api.post(f"{path}/scaleout", data=body)
            self.assertEqual(refused.status_code, 400, refused.text)
            self.assertIn("no service engine can take the virtual service", refused.text)
        for action in ["scaleout", "scalein", "migrate", "switchover", "retryplacement", "resync"]:
            self.assertEqual(self.api.get(f"{path}/{action}").json(), {"count": 0, "results": []}, action)
        runtime = self.api.get(f"{path}/runtime/").json()
        self.assertEqual(runtime["oper_status"]["state"], "OPER_RESOURCES")
