//! The mark of a flow, from which hints are blinded and tunnel packets checked (docs/dev/steering.md, section 5).

use crate::key::Flow;
use std::net::IpAddr;

/// Key of marks; the same at all members, and not rotated: hints of living connections depend on it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct HintKey(pub [u64; 2]);

impl std::fmt::Debug for HintKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HintKey(..)")
    }
}

/// 64 keyed bits of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(pub u64);

impl Mark {
    /// Of this flow under this key.
    #[must_use]
    pub fn of(key: HintKey, flow: &Flow) -> Self {
        let ports = u64::from(flow.client.port()) << 32
            | u64::from(flow.service.port()) << 16
            | u64::from(flow.protocol.number());
        Self::mix(key, flow, ports)
    }

    /// The same of client and VIP alone.
    #[must_use]
    pub fn of_address(key: HintKey, flow: &Flow) -> Self {
        Self::mix(key, flow, 0)
    }

    fn mix(HintKey([k0, k1]): HintKey, flow: &Flow, ports: u64) -> Self {
        let mut x = (folded(flow.client.ip()) ^ k0).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x ^= x >> 32;
        x = (x ^ folded(flow.service.ip()) ^ k1).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
        x ^= x >> 29;
        x = (x ^ ports).wrapping_mul(0x1656_67B1_9E37_79F9);
        x ^= x >> 32;
        Self(x)
    }

    /// What the member id in a hint is blinded with, 6 bits.
    #[must_use]
    pub fn blind(self) -> u8 {
        (self.0 & 0x3F) as u8
    }

    /// The flow's bit among those that no hint is believed of.
    #[must_use]
    pub fn no_hint_bit(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Slot of [`crate::spread`].
    #[must_use]
    pub fn slot(self) -> u8 {
        (self.0 >> 48 & 0xFF) as u8
    }

    /// Check value of a DATA packet, 14 bits.
    #[must_use]
    pub fn check(self) -> u16 {
        ((self.0 >> 32) & 0x3FFF) as u16
    }
}

fn folded(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            ((bits >> 64) as u64) ^ (bits as u64).rotate_left(32)
        }
    }
}
