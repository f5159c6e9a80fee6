//! What each router is configured with.

use super::{Spec, Upstream};

impl Upstream {
    pub(super) fn frr_config(&self) -> String {
        let Spec {
            asn,
            engine_as,
            v6,
            v4_over_v6,
            md5,
            multihop,
            bfd,
            talkative,
        } = self.spec;
        let engine = self.spec.engine();
        let line = |on: bool, text: &str| {
            if on {
                format!(" neighbor {engine} {text}\n")
            } else {
                String::new()
            }
        };
        let mut config = format!(
            "router bgp {asn}\n bgp router-id 10.10.1.1\n bgp log-neighbor-changes\n no bgp ebgp-requires-policy\n neighbor {engine} remote-as {engine_as}\n neighbor {engine} passive\n"
        );
        config += &line(
            md5.is_some(),
            &format!("password {}", md5.unwrap_or_default()),
        );
        config += &line(multihop, "ebgp-multihop 64");
        config += &line(bfd, "bfd profile fast");
        config += &line(talkative, "capability dynamic");
        config += &line(talkative, "capability extended-nexthop");
        if talkative {
            config = config.replacen(" neighbor", " bgp graceful-restart\n neighbor", 1);
            config += &format!(
                " address-family ipv4 unicast\n  neighbor {engine} addpath-tx-all-paths\n  neighbor {engine} capability orf prefix-list both\n exit-address-family\n"
            );
        }
        if v6 && !v4_over_v6 {
            config += &format!(" address-family ipv6 unicast\n  neighbor {engine} activate\n");
        }
        config
    }

    pub(super) fn bird_config(&self) -> String {
        let Spec {
            asn,
            engine_as,
            v6: _,
            v4_over_v6: _,
            md5,
            multihop,
            bfd,
            talkative,
        } = self.spec;
        let (engine, router) = (self.spec.engine(), self.spec.router());
        let family = self.spec.family();
        let line = |on: bool, text: String| if on { text } else { String::new() };
        let reach = if multihop { "multihop 64;" } else { "direct;" };
        let password = line(
            md5.is_some(),
            format!("password \"{}\";", md5.unwrap_or_default()),
        );
        let watch = line(bfd, "bfd on;".to_owned());
        let session = line(
            talkative,
            "graceful restart on; long lived graceful restart on; advertise hostname on;"
                .to_owned(),
        );
        let channel = line(talkative, "add paths on; extended next hop on;".to_owned());
        let bfd = line(
            bfd,
            "protocol bfd { interface \"*\" { interval 50 ms; multiplier 3; }; multihop { interval 50 ms; multiplier 3; }; }".to_owned(),
        );
        // Its kernel's routes it does not know: without these a next hop behind another router is unreachable.
        let far = line(
            multihop,
            "protocol static { ipv4; route 10.10.1.0/24 via 10.10.9.2; }
protocol static { ipv6; route 2001:db8:1::/64 via 2001:db8:9::2; }"
                .to_owned(),
        );
        format!(
            "router id 10.10.1.1;
log stderr all;
protocol device {{ scan time 1; }}
protocol direct {{ ipv4; ipv6; }}
protocol kernel {{ {family} {{ import none; export where source = RTS_BGP; }}; }}
{bfd}
{far}
protocol bgp se {{
    debug {{ states, events }};
    local {router} as {asn};
    neighbor {engine} as {engine_as};
    passive; {reach} {password} {watch}
    error wait time 1, 2;
    enable extended messages; {session}
    {family} {{ import all; export none; {channel} }};
}}
"
        )
    }

    pub(super) fn gobgp_config(&self) -> String {
        let Spec {
            asn,
            engine_as,
            v6: _,
            v4_over_v6: _,
            md5,
            multihop,
            bfd: _,
            talkative,
        } = self.spec;
        let engine = self.spec.engine();
        let family = self.spec.family();
        let password = md5.unwrap_or_default();
        format!(
            "[global.config]
as = {asn}
router-id = \"10.10.1.1\"
[[neighbors]]
[neighbors.config]
neighbor-address = \"{engine}\"
peer-as = {engine_as}
auth-password = \"{password}\"
[neighbors.transport.config]
passive-mode = true
[neighbors.ebgp-multihop.config]
enabled = {multihop}
multihop-ttl = 64
[neighbors.graceful-restart.config]
enabled = {talkative}
restart-time = 120
long-lived-enabled = {talkative}
[neighbors.add-paths.config]
receive = {talkative}
[[neighbors.afi-safis]]
[neighbors.afi-safis.config]
afi-safi-name = \"{family}-unicast\"
[neighbors.afi-safis.mp-graceful-restart.config]
enabled = {talkative}
"
        )
    }

    pub(super) fn openbgpd_config(&self) -> String {
        let Spec {
            asn,
            engine_as,
            v6: _,
            v4_over_v6: _,
            md5,
            multihop,
            bfd: _,
            talkative,
        } = self.spec;
        let (engine, router) = (self.spec.engine(), self.spec.router());
        let socket = self.dir.join("bgpd.sock").display().to_string();
        let family = self.spec.family().replace("ip", "IP");
        let password = md5
            .map(|k| format!("tcp md5sig password \"{k}\""))
            .unwrap_or_default();
        let reach = if multihop { "multihop 64" } else { "" };
        let capabilities = if talkative {
            "announce enhanced refresh yes\n    announce add-path recv yes\n    announce restart yes\n    announce as-4byte yes"
        } else {
            ""
        };
        format!(
            "AS {asn}
router-id 10.10.1.1
listen on {router}
socket \"{socket}\"
fib-update no
neighbor {engine} {{
    remote-as {engine_as}
    passive
    announce {family} unicast
    {password}
    {reach}
    {capabilities}
}}
allow from any
"
        )
    }
}
