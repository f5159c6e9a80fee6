//! How connections are set up and introduced to servers, as the proxy is told of it.

use proto::v1::{self, VirtualService};
use proxy::{Congestion, ProxyHeader, TcpSpec};

/// 0 is none.
fn some(number: u32) -> Option<u32> {
    (number > 0).then_some(number)
}

/// How the connections of clients are set up.
pub(super) fn spec(vs: &VirtualService) -> TcpSpec {
    let settings = vs.tcp.unwrap_or_default();
    let window = some(settings.receive_window_kb);
    let window = window.and_then(|kb| usize::try_from(kb).ok());
    TcpSpec {
        nagle: settings.nagle,
        receive_window: window.map(|kb| kb * 1024),
        segment_max: some(settings.segment_bytes_max),
        congestion: congestion(&settings),
        dscp: u8::try_from(settings.dscp).unwrap_or(0),
        half_open_max: some(vs.half_open_max),
    }
}

fn congestion(settings: &v1::TcpSettings) -> Option<Congestion> {
    match settings.congestion_control() {
        v1::CongestionControl::Unspecified => None,
        v1::CongestionControl::NewReno => Some(Congestion::NewReno),
        v1::CongestionControl::Cubic => Some(Congestion::Cubic),
        v1::CongestionControl::Htcp => Some(Congestion::Htcp),
    }
}

/// What servers are told of clients first.
pub(super) fn proxy_header(vs: &VirtualService) -> Option<ProxyHeader> {
    match vs.proxy_protocol() {
        v1::ProxyProtocol::Unspecified => None,
        v1::ProxyProtocol::V1 => Some(ProxyHeader::V1),
        v1::ProxyProtocol::V2 => Some(ProxyHeader::V2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_settings_the_kernel_chooses() {
        let none = VirtualService::default();
        assert_eq!(spec(&none), TcpSpec::default());
        let empty = VirtualService {
            tcp: Some(v1::TcpSettings::default()),
            ..none
        };
        assert_eq!(spec(&empty), TcpSpec::default());
    }

    #[test]
    fn every_setting_reaches_the_proxy() {
        let vs = VirtualService {
            tcp: Some(v1::TcpSettings {
                nagle: true,
                receive_window_kb: 64,
                segment_bytes_max: 512,
                congestion_control: v1::CongestionControl::Htcp.into(),
                dscp: 63,
            }),
            half_open_max: 9,
            ..VirtualService::default()
        };
        let expected = TcpSpec {
            nagle: true,
            receive_window: Some(65_536),
            segment_max: Some(512),
            congestion: Some(Congestion::Htcp),
            dscp: 63,
            half_open_max: Some(9),
        };
        assert_eq!(spec(&vs), expected);
    }

    #[test]
    fn servers_hear_of_clients_in_the_version_that_is_wanted() {
        use v1::ProxyProtocol as Version;
        for (version, expected) in [
            (Version::Unspecified, None),
            (Version::V1, Some(ProxyHeader::V1)),
            (Version::V2, Some(ProxyHeader::V2)),
        ] {
            let vs = VirtualService {
                proxy_protocol: version.into(),
                ..VirtualService::default()
            };
            assert_eq!(proxy_header(&vs), expected);
        }
    }
}
