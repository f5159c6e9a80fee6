//! What engines are told of one VIP: the same at each of them, so that it is made once for all.

use super::{application, flow};
use crate::objects::{Snapshot, Unreadable, transport};
use crate::plan::situation;
use model::view::{
    self, MADE_FOR_VS, NetworkProfile, PoolGroup, ServiceEngineGroup, Transport, VirtualService,
    VsVip,
};
use placement::Ha;
use proto::v1;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Part {
    pub vips: Vec<v1::Vip>,
    pub virtual_services: Vec<v1::VirtualService>,
    /// Those that they name, by uuid.
    pub certificates: BTreeMap<String, v1::KeyAndCertificate>,
    /// The first engine of the VIP is active, the others are standbys.
    pub active_standby: bool,
    /// They check servers as well (`hm_on_standby`).
    pub standby_checks: bool,
    /// The VIP is scaled natively; who answers for it is the assignment's.
    pub native: Option<v1::Native>,
    snat_ips: Vec<SnatIps>,
}

/// Source addresses of a virtual service.
#[derive(Debug)]
struct SnatIps {
    vs_uuid: String,
    addresses: Vec<IpAddr>,
}

impl Part {
    /// Of each virtual service those of the engine with this slot, one of each family: servers' answers must come to it alone.
    pub(super) fn snat_ips(&self, slot: usize) -> impl Iterator<Item = v1::SnatIp> {
        let own = move |snat: &SnatIps, v6: bool| {
            let mut family = snat.addresses.iter().filter(|a| a.is_ipv6() == v6);
            let address = family.nth(slot)?.to_string();
            let vs_uuid = snat.vs_uuid.clone();
            Some(v1::SnatIp {
                vs_uuid,
                address,
                own: true,
            })
        };
        let each = self.snat_ips.iter();
        each.flat_map(move |snat| [own(snat, false), own(snat, true)])
            .flatten()
    }
}

/// Parts that have been made, by uuid of the VsVip. Whoever learns of a change of what a part is made from forgets it.
#[derive(Default)]
pub(in crate::plan) struct Parts(HashMap<String, Arc<Part>>);

impl Parts {
    /// It may be out of date.
    pub(in crate::plan) fn forget(&mut self, vsvip: &str) {
        self.0.remove(vsvip);
    }

    /// All of them may be.
    pub(in crate::plan) fn forget_all(&mut self) {
        self.0.clear();
    }

    /// The part of this VIP; none when it is gone.
    ///
    /// # Errors
    /// An object that cannot be read.
    pub(super) fn of(
        &mut self,
        snapshot: &Snapshot,
        vsvip: &str,
    ) -> Result<Option<Arc<Part>>, Unreadable> {
        if let Some(known) = self.0.get(vsvip) {
            return Ok(Some(known.clone()));
        }
        let Some(view) = snapshot.try_view::<VsVip>("vsvip", vsvip)? else {
            return Ok(None);
        };
        let made = Arc::new(part(snapshot, &view)?);
        self.0.insert(vsvip.to_owned(), made.clone());
        Ok(Some(made))
    }
}

fn part(snapshot: &Snapshot, vsvip: &VsVip) -> Result<Part, Unreadable> {
    let services = situation::try_services_of(snapshot, &vsvip.uuid)?;
    let mut certificates = BTreeMap::new();
    let each = services.iter();
    let each = each.map(|v| virtual_service(snapshot, v, &mut certificates));
    let mut virtual_services = each.collect::<Result<Vec<_>, _>>()?;
    virtual_services
        .iter_mut()
        .for_each(v1::VirtualService::shrink_to_fit);
    virtual_services.shrink_to_fit();
    let group = services.first().and_then(|vs| vs.se_group_ref.as_ref());
    let group = flow::se_group(snapshot, group)?;
    let active_standby = group
        .as_ref()
        .is_some_and(|g| situation::ha(g) == Ha::ActiveStandby);
    let cloud = situation::cloud_of(snapshot, vsvip)?;
    let native = || v1::Native {
        // A standby takes nothing while the active engine is there.
        spreads: !active_standby,
        answers_by_primary: group.as_ref().is_some_and(|g| g.answers_by_primary()),
        on_all_interfaces: cloud.enable_vip_on_all_interfaces,
        distribution: distribution(&services).into(),
        first_id: 0,
    };
    Ok(Part {
        active_standby,
        standby_checks: group.as_ref().is_none_or(|g| g.hm_on_standby),
        native: situation::is_native(&services).then(native),
        vips: vips(vsvip, &services),
        virtual_services,
        certificates,
        snat_ips: services.iter().map(|vs| snat_ips(vs)).collect(),
    })
}

/// Of several virtual services that share a VIP, the first one's `flow_dist` counts.
fn distribution(services: &[Arc<VirtualService>]) -> v1::FlowDistribution {
    use v1::FlowDistribution as By;
    let wanted = services.first().map_or("", |vs| vs.flow_dist.as_str());
    match wanted {
        "CONSISTENT_HASH_SOURCE_IP_ADDRESS" => By::ConsistentHashSourceIpAddress,
        "CONSISTENT_HASH_SOURCE_IP_ADDRESS_AND_PORT" => By::ConsistentHashSourceIpAddressAndPort,
        _ => By::LoadAware,
    }
}

fn vips(vsvip: &VsVip, services: &[Arc<VirtualService>]) -> Vec<v1::Vip> {
    let enabled = vsvip.vip.iter().filter(|v| v.enabled);
    let each = enabled.flat_map(|vip| vip.addresses().map(|address| (vip.vip_id.clone(), address)));
    // avi-api section 12, virtualservice: "VS wins if it has its own `vip`".
    let owner = services.iter().find(|_| vsvip.created_by == MADE_FOR_VS);
    let labels = owner.map(|vs| &vs.bgp_peer_labels);
    let labels = labels.filter(|own| !own.is_empty());
    each.map(|(vip_id, address)| v1::Vip {
        vsvip_uuid: vsvip.uuid.clone(),
        vip_id,
        address: address.to_string(),
        local_preference: owner
            .and_then(|vs| vs.bgp_local_preference)
            .or(vsvip.bgp_local_preference),
        num_as_path_prepend: owner
            .and_then(|vs| vs.bgp_num_as_path_prepend)
            .or(vsvip.bgp_num_as_path_prepend),
        peer_labels: labels.unwrap_or(&vsvip.bgp_peer_labels).clone(),
    })
    .collect()
}

fn snat_ips(vs: &VirtualService) -> SnatIps {
    let announced = vs.snat_ip.iter().filter(|_| vs.enable_rhi_snat);
    SnatIps {
        vs_uuid: vs.uuid.clone(),
        addresses: announced.filter_map(view::Address::ip).collect(),
    }
}

fn virtual_service(
    snapshot: &Snapshot,
    vs: &VirtualService,
    certificates: &mut BTreeMap<String, v1::KeyAndCertificate>,
) -> Result<v1::VirtualService, Unreadable> {
    let carried = carried(snapshot, vs)?;
    let (idle_timeout_s, keeps_idle) = tcp_idle(&carried);
    Ok(v1::VirtualService {
        uuid: vs.uuid.clone(),
        name: vs.name.clone(),
        vsvip_uuid: vs
            .vsvip_ref
            .as_ref()
            .map(|r| r.uuid().to_owned())
            .unwrap_or_default(),
        ports: carried
            .iter()
            .map(|(s, p)| port_range(snapshot, vs, s, p.as_deref()))
            .collect::<Result<_, _>>()?,
        pool_uuid: vs
            .pool_ref
            .as_ref()
            .map(|r| r.uuid().to_owned())
            .unwrap_or_default(),
        enabled: vs.enabled && vs.traffic_enabled,
        enable_rhi: vs.enable_rhi,
        idle_timeout_s,
        keeps_idle,
        udp_idle_timeout_s: udp_idle_timeout_s(&carried),
        advertise_down_vs: vs.advertise_down_vs,
        pool_group: pool_group(snapshot, vs)?,
        vip_as_source: vs.use_vip_as_snat && is_for_one_engine(snapshot, vs)?,
        flow_hints: vs.flow_hints,
        flow_probes: flow::probes(snapshot, vs)?,
        tls: application::tls(snapshot, vs, certificates)?,
        tcp: tcp_settings(&carried),
        weight: vs.weight.get(),
        proxy_protocol: proxy_protocol(snapshot, vs, &carried)?.into(),
        half_open_max: half_open_max(snapshot, vs)?,
    })
}

/// As its SE group says; 0 = as many as usual.
fn half_open_max(snapshot: &Snapshot, vs: &VirtualService) -> Result<u32, Unreadable> {
    let group = flow::se_group(snapshot, vs.se_group_ref.as_ref())?;
    let wanted = group.map(|group| group.flow_table_new_syn_max_entries);
    Ok(super::at_least(wanted))
}

fn proxy_protocol(
    snapshot: &Snapshot,
    vs: &VirtualService,
    carried: &[Carried<'_>],
) -> Result<v1::ProxyProtocol, Unreadable> {
    let tcp = carried.iter().filter(|(_, p)| !is_udp(p.as_deref()));
    application::proxy_protocol(snapshot, vs, tcp.map(|(service, _)| *service))
}

/// Its group places a VIP on one engine at most.
fn is_for_one_engine(snapshot: &Snapshot, vs: &VirtualService) -> Result<bool, Unreadable> {
    let group = vs.se_group_ref.as_ref().map_or("", view::Ref::uuid);
    let group = snapshot.try_view::<ServiceEngineGroup>("serviceenginegroup", group)?;
    Ok(group.is_some_and(|group| group.is_for_one_engine()))
}

fn pool_group(
    snapshot: &Snapshot,
    vs: &VirtualService,
) -> Result<Option<v1::PoolGroup>, Unreadable> {
    let Some(reference) = &vs.pool_group_ref else {
        return Ok(None);
    };
    let group = snapshot.try_view::<PoolGroup>("poolgroup", reference.uuid())?;
    Ok(group.map(|group| v1::PoolGroup {
        uuid: group.uuid.clone(),
        name: group.name.clone(),
        members: group_members(&group),
        min_servers: group.min_servers,
    }))
}

fn group_members(group: &PoolGroup) -> Vec<v1::PoolGroupMember> {
    let members = group.members.iter().zip(group.priorities());
    members
        .map(|(member, priority)| v1::PoolGroupMember {
            pool_uuid: member.pool_ref.uuid().to_owned(),
            priority,
            ratio: member.ratio,
        })
        .collect()
}

/// A service and its network profile.
type Carried<'a> = (&'a view::Service, Option<Arc<NetworkProfile>>);

fn carried<'a>(
    snapshot: &Snapshot,
    vs: &'a VirtualService,
) -> Result<Vec<Carried<'a>>, Unreadable> {
    let with_profile = |service| Ok((service, transport::profile_of(snapshot, vs, service)?));
    vs.services.iter().map(with_profile).collect()
}

fn is_udp(profile: Option<&NetworkProfile>) -> bool {
    profile.and_then(|p| p.profile.transport()) == Some(Transport::Udp)
}

fn port_range(
    snapshot: &Snapshot,
    vs: &VirtualService,
    service: &view::Service,
    profile: Option<&NetworkProfile>,
) -> Result<v1::PortRange, Unreadable> {
    let (first, last) = service.ports();
    let udp = is_udp(profile);
    let protocol = match (udp, service.enable_ssl) {
        (true, _) => v1::Protocol::Udp,
        (false, true) => v1::Protocol::Tls,
        (false, false) => v1::Protocol::Tcp,
    };
    let http = match udp {
        true => None,
        false => application::http(snapshot, vs, service)?,
    };
    Ok(v1::PortRange {
        first: first.into(),
        last: last.into(),
        protocol: protocol.into(),
        http,
    })
}

/// The first profile of several whose ports are TCP's.
fn tcp_profile<'a>(carried: &'a [Carried<'_>]) -> Option<&'a NetworkProfile> {
    let mut profiles = carried.iter().filter_map(|(_, profile)| profile.as_deref());
    profiles.find(|p| !is_udp(Some(*p)))
}

/// What the sockets of clients are set up with; `None`: as the kernel chooses.
fn tcp_settings(carried: &[Carried<'_>]) -> Option<v1::TcpSettings> {
    let own = tcp_profile(carried)?.profile.tcp_own()?;
    let congestion_control = match own.cc_algo.as_str() {
        "CC_ALGO_CUBIC" => v1::CongestionControl::Cubic,
        "CC_ALGO_HTCP" => v1::CongestionControl::Htcp,
        _ => v1::CongestionControl::NewReno,
    };
    Some(v1::TcpSettings {
        nagle: own.nagles_algorithm,
        receive_window_kb: own.window().unwrap_or(0),
        segment_bytes_max: own.segment().unwrap_or(0),
        congestion_control: congestion_control.into(),
        dscp: own.ip_dscp,
    })
}

/// When a TCP connection is idle, and whether it is kept then.
fn tcp_idle(carried: &[Carried<'_>]) -> (u32, bool) {
    let usual = || view::TcpProxyProfile::default();
    tcp_profile(carried).map_or_else(
        || (usual().idle_connection_timeout, usual().keeps_idle()),
        |p| p.profile.tcp_idle(),
    )
}

/// The longest of several; 0 without UDP.
fn udp_idle_timeout_s(carried: &[Carried<'_>]) -> u32 {
    let profiles = carried.iter().filter_map(|(_, profile)| profile.as_deref());
    let udp = profiles.filter(|p| is_udp(Some(*p)));
    udp.map(|p| p.profile.udp().session_idle_timeout)
        .max()
        .unwrap_or(0)
}
