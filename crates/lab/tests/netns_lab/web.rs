//! HTTP and TLS with clients and servers that know nothing of engines: curl, and the lab's server of downloads.

use crate::support::{Lab, apply, can_run, lab, lab_ok, wait_for, wait_for_state};

const WEB: &str = "
applicationprofile:
  - {name: web, type: APPLICATION_PROFILE_TYPE_HTTP, http_profile: {http_to_https: true, x_forwarded_proto_enabled: true}}
pool:
  - {name: web, default_server_port: 8080, servers: [{ip: 10.20.20.101}, {ip: 10.20.20.102}], application_persistence_profile_ref: System-Persistence-Http-Cookie}
virtualservice:
  - name: vs-web
    enable_rhi: true
    services: [{port: 8000}, {port: 8443, enable_ssl: true}]
    ssl_key_and_certificate_refs: [System-Default-Cert]
    ssl_profile_ref: System-Standard
    application_profile_ref: web
    network_profile_ref: System-TCP-Proxy
    vsvip_ref: vip-1
    pool_ref: web
";

/// What curl says of it; or that it got no answer.
fn curl(id: &Lab, arguments: &[&str]) -> Result<String, String> {
    let mut all = vec!["exec", "--run", id.0, "client"];
    all.extend(["curl", "-sSk", "--max-time", "10"]);
    all.extend(arguments);
    let output = lab(&all);
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

#[test]
fn a_browser_is_sent_to_https_and_gets_what_the_server_has() {
    if !can_run() {
        return;
    }
    let id = Lab::new("tweb");
    lab_ok(&["up", "dual-homed", "--run", id.0]);
    apply(&id, WEB);
    wait_for_state(&id, "vs-web", "OPER_UP");
    let redirect = "%{http_code} %{redirect_url}";
    let plain = "http://10.100.0.1:8000/7/100000";
    wait_for("the redirect", || {
        match curl(&id, &["-o", "/dev/null", "-w", redirect, plain])? {
            told if told == "302 https://10.100.0.1:8443/7/100000" => Ok(()),
            other => Err(other),
        }
    });
    let size = "%{http_code} %{size_download} %{ssl_verify_result} %{num_connects}";
    let got = curl(&id, &["-L", "-o", "/dev/null", "-w", size, plain]).unwrap();
    assert!(got.starts_with("200 100000 "), "{got}");
    let head = curl(
        &id,
        &["-D", "-", "-o", "/dev/null", "https://10.100.0.1:8443/7/10"],
    )
    .unwrap();
    assert!(
        head.to_ascii_lowercase().contains("set-cookie: evenkeel-"),
        "{head}"
    );
}
