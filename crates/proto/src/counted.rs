//! What is counted in several fields, as one value.

use crate::v1::{PoolStatus, ResponseStats};

impl ResponseStats {
    /// From 1xx to 5xx.
    pub fn classes(&self) -> [u64; 5] {
        let Self {
            class_1xx,
            class_2xx,
            class_3xx,
            class_4xx,
            class_5xx,
        } = *self;
        [class_1xx, class_2xx, class_3xx, class_4xx, class_5xx]
    }
}

impl PoolStatus {
    /// Bytes from its servers, and to them; none of an older engine, which does not tell, and of a pool without servers.
    pub fn bytes(&self) -> Option<[u64; 2]> {
        let each = self.servers.iter();
        let each = each.filter_map(|s| Some([s.bytes_received?, s.bytes_sent?]));
        each.reduce(|sum, one| [sum[0] + one[0], sum[1] + one[1]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::ServerStatus;

    #[test]
    fn a_pool_has_the_bytes_of_its_servers_and_none_of_an_older_engines() {
        let server = |bytes: Option<u64>| ServerStatus {
            bytes_sent: bytes,
            bytes_received: bytes.map(|b| 10 * b),
            ..ServerStatus::default()
        };
        let pool = |servers: Vec<ServerStatus>| PoolStatus {
            servers,
            ..PoolStatus::default()
        };
        let both = pool(vec![server(Some(1)), server(Some(2))]);
        assert_eq!(both.bytes(), Some([30, 3]));
        assert_eq!(pool(vec![server(None), server(None)]).bytes(), None);
        assert_eq!(pool(Vec::new()).bytes(), None);
    }
}
