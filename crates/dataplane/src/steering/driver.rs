//! What the driver of an interface can do with native XDP, asked of the kernel over netlink.

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsRawFd;

/// `struct nlmsghdr`.
const HEADER_LEN: usize = 16;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
/// More than the kernel says of one interface.
const ANSWER_MAX: usize = 64 * 1024;

/// rtnetlink(7): what kind of interface it is.
const RTM_GETLINK: u16 = 18;
const IFINFOMSG_LEN: usize = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;

/// `linux/genetlink.h`: number of a family by its name.
const GENL_ID_CTRL: u16 = 16;
const GENL_LEN: usize = 4;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

/// `linux/netdev.h`.
const NETDEV: &[u8] = b"netdev\0";
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
/// Drop, pass, and send back by the same interface.
const BASIC: u64 = 1;
/// It takes frames that an XDP program sends; of a veth: its other end does.
const SENDS: u64 = 4;

/// See the head of the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Driver {
    /// One end of a pair of virtual interfaces.
    pub is_veth: bool,
    /// There is native XDP.
    pub has_xdp: bool,
    /// What a program sends arrives.
    pub sends: bool,
}

impl Driver {
    pub(super) fn of(interface: &str) -> Result<Self> {
        let index = nix::net::if_::if_nametoindex(interface)?;
        let features = xdp_features(index)?;
        Ok(Self {
            is_veth: is_veth(index)?,
            has_xdp: features & BASIC != 0,
            sends: features & SENDS != 0,
        })
    }
}

fn is_veth(index: u32) -> Result<bool> {
    let mut body = vec![0; IFINFOMSG_LEN];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    let answer = ask(SockProtocol::NetlinkRoute, RTM_GETLINK, &body)?;
    let info = answer.get(IFINFOMSG_LEN..).unwrap_or_default();
    let kind = attribute(info, IFLA_LINKINFO).and_then(|i| attribute(i, IFLA_INFO_KIND));
    Ok(kind == Some(b"veth\0"))
}

fn xdp_features(index: u32) -> Result<u64> {
    let family = generic(
        GENL_ID_CTRL,
        CTRL_CMD_GETFAMILY,
        (CTRL_ATTR_FAMILY_NAME, NETDEV),
    )?;
    let id = number(&family, CTRL_ATTR_FAMILY_ID)?;
    let id = u16::try_from(id).map_err(|_| ErrorKind::InvalidData)?;
    let index = index.to_ne_bytes();
    let device = generic(id, NETDEV_CMD_DEV_GET, (NETDEV_A_DEV_IFINDEX, &index))?;
    number(&device, NETDEV_A_DEV_XDP_FEATURES)
}

/// A question of generic netlink with one attribute; the attributes of the answer.
fn generic(family: u16, command: u8, (name, value): (u16, &[u8])) -> Result<Vec<u8>> {
    const VERSION: u8 = 1;
    let mut body = vec![command, VERSION, 0, 0];
    let len = u16::try_from(4 + value.len()).map_err(|_| ErrorKind::InvalidInput)?;
    body.extend(len.to_ne_bytes());
    body.extend(name.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
    let answer = ask(SockProtocol::NetlinkGeneric, family, &body)?;
    Ok(answer.get(GENL_LEN..).unwrap_or_default().to_vec())
}

/// One message there and one back; what follows its header.
fn ask(protocol: SockProtocol, kind: u16, body: &[u8]) -> Result<Vec<u8>> {
    let (family, raw) = (AddressFamily::Netlink, SockType::Raw);
    let socket = socket(family, raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    let len = u32::try_from(HEADER_LEN + body.len()).map_err(|_| ErrorKind::InvalidInput)?;
    let mut message = len.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    // A sequence number and a port: there is one message, and it goes to the kernel.
    message.extend([0; 8]);
    message.extend(body);
    send(socket.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut answer = vec![0; ANSWER_MAX];
    let len = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    answer.truncate(len);
    payload(&answer)
}

fn payload(answer: &[u8]) -> Result<Vec<u8>> {
    let (header, rest) = answer
        .split_at_checked(HEADER_LEN)
        .ok_or(ErrorKind::UnexpectedEof)?;
    if u16::from_ne_bytes([header[4], header[5]]) != NLMSG_ERROR {
        return Ok(rest.to_vec());
    }
    let code: [u8; 4] = rest
        .get(..4)
        .and_then(|c| c.try_into().ok())
        .ok_or(ErrorKind::UnexpectedEof)?;
    Err(Error::from_raw_os_error(-i32::from_ne_bytes(code)))
}

/// The value of the first attribute of this name (netlink(7): length, name, value, padding).
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    /// Whether it is nested, and its byte order.
    const FLAGS: u16 = 0xc000;
    while let [l0, l1, n0, n1, ..] = *attributes {
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = attributes.get(4..len)?;
        if u16::from_ne_bytes([n0, n1]) & !FLAGS == wanted {
            return Some(value);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
    None
}

/// Of two, four or eight bytes.
fn number(attributes: &[u8], wanted: u16) -> Result<u64> {
    let value = attribute(attributes, wanted).ok_or(ErrorKind::InvalidData)?;
    match *value {
        [a, b] => Ok(u16::from_ne_bytes([a, b]).into()),
        [a, b, c, d] => Ok(u32::from_ne_bytes([a, b, c, d]).into()),
        _ => {
            let eight: [u8; 8] = value.try_into().map_err(|_| ErrorKind::InvalidData)?;
            Ok(u64::from_ne_bytes(eight))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_by_name_and_never_beyond_the_end() {
        let mut bytes = vec![6, 0, 1, 0, 7, 8, 0, 0];
        bytes.extend([8, 0, 2, 0x80, 1, 0, 0, 0]);
        assert_eq!(attribute(&bytes, 1), Some(&[7, 8][..]));
        assert_eq!(number(&bytes, 2).unwrap(), 1);
        assert_eq!(attribute(&bytes, 3), None);
        for end in 0..bytes.len() {
            attribute(&bytes[..end], 3);
        }
        assert_eq!(attribute(&[0, 0, 1, 0], 1), None, "shorter than its header");
    }

    #[test]
    fn a_refusal_of_the_kernel_is_an_error() {
        let mut answer = vec![0; HEADER_LEN];
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        answer.extend((-libc::ENODEV).to_ne_bytes());
        let error = payload(&answer).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        assert!(payload(&answer[..9]).is_err());
    }

    #[test]
    fn the_loopback_interface_is_no_veth_and_has_no_native_xdp() {
        let expected = Driver {
            is_veth: false,
            has_xdp: false,
            sends: false,
        };
        assert_eq!(Driver::of("lo").unwrap(), expected);
        assert!(Driver::of("no-such-link").is_err());
    }
}
