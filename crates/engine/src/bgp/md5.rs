//! Segments that the kernel has dropped for their TCP MD5 signature (RFC 2385): the only trace of a wrong key.

use std::fs;

/// Of this host's network namespace; which peer sent them the kernel does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Md5Failures {
    /// Signed with another key, or unsigned where a key is set.
    pub(super) wrong: u64,
    /// Signed where no key is set.
    pub(super) unexpected: u64,
}

impl Md5Failures {
    /// Since the host started; nothing where the kernel does not tell.
    pub(super) fn now() -> Self {
        // Of the thread, because a thread may have its own network namespace.
        fs::read_to_string("/proc/thread-self/net/netstat")
            .map_or_else(|_| Self::default(), |text| Self::parse(&text))
    }

    /// What has been added since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            wrong: self.wrong.saturating_sub(before.wrong),
            unexpected: self.unexpected.saturating_sub(before.unexpected),
        }
    }

    /// Two lines per group: names, values.
    fn parse(netstat: &str) -> Self {
        let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
        let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
        let pairs = names.split_whitespace().zip(values.split_whitespace());
        let of = |wanted: &str| -> u64 {
            let mut named = pairs.clone().filter(|(name, _)| *name == wanted);
            named.find_map(|(_, value)| value.parse().ok()).unwrap_or(0)
        };
        Self {
            wrong: of("TCPMD5Failure") + of("TCPMD5NotFound"),
            unexpected: of("TCPMD5Unexpected"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_counters_are_found_by_name() {
        let text = "TcpExt: SyncookiesSent TCPMD5NotFound TCPMD5Unexpected TCPMD5Failure X\nTcpExt: 9 1 2 3 7\nIpExt: A\nIpExt: 1\n";
        let parsed = Md5Failures::parse(text);
        assert_eq!(
            parsed,
            Md5Failures {
                wrong: 4,
                unexpected: 2
            }
        );
        assert_eq!(Md5Failures::parse("garbage"), Md5Failures::default());
        assert_eq!(Md5Failures::default().since(parsed), Md5Failures::default());
    }
}
