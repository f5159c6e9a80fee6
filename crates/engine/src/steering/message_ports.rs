//! The port of messages and lines, and the one that it was before: the engines of an SE group hear of another one
//! (`se_tunnel_udp_port`) one after the other, and are to find each other all the time.

use flow::Settings;
use flow::wire::MESSAGE_PORT;
use std::time::{Duration, Instant};

/// For so long after a change an engine is reached, and reaches others, by the former port as well: longer than a controller
/// takes to tell them all, and than an engine is mostly without one.
const FORMER_FOR: Duration = Duration::from_secs(600);

/// Those that this process has been told of.
#[derive(Debug, Default)]
pub(super) struct Ports {
    /// None: none yet.
    now: Option<u16>,
    /// And until when it is good.
    former: Option<(u16, Instant)>,
}

impl Ports {
    /// When the former port ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.former.map(|(_, until)| until)
    }

    /// Notes the port of these settings, and adds the former one to them; before the first one it is that of engines which know no
    /// other. Settings without keys are no word of a controller, and nobody is spoken to with them.
    pub(super) fn settle(&mut self, settings: &mut Settings, now: Instant) {
        self.former = self.former.filter(|(_, until)| now < *until);
        if settings.message_keys.is_empty() {
            return;
        }
        let before = self.now.replace(settings.port).unwrap_or(MESSAGE_PORT);
        if before != settings.port {
            self.former = Some((before, now + FORMER_FOR));
        }
        settings.former_port = self.former.map(|(port, _)| port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flow::config::MessageKey;

    fn settings(port: u16) -> Settings {
        Settings {
            port,
            message_keys: vec![MessageKey {
                id: 1,
                secret: [1, 2],
            }],
            ..Settings::default()
        }
    }

    /// The ports in force then.
    fn in_force(ports: &mut Ports, mut settings: Settings, at: Instant) -> Vec<u16> {
        ports.settle(&mut settings, at);
        settings.ports().collect()
    }

    #[test]
    fn the_former_port_is_good_for_a_while_and_before_the_first_one_is_the_usual_one() {
        let (mut ports, start) = (Ports::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(in_force(&mut ports, Settings::default(), at(0)), [1550]);
        for (second, port, expected) in [
            (1, 4790, vec![4790, 1550]),
            (2, 4790, vec![4790, 1550]),
            (3, 4791, vec![4791, 4790]),
            (602, 4791, vec![4791, 4790]),
            (603, 4791, vec![4791]),
            (700, 4790, vec![4790, 4791]),
            (701, 4791, vec![4791, 4790]),
        ] {
            let seen = in_force(&mut ports, settings(port), at(second));
            assert_eq!(seen, expected, "after {second} s");
        }
        assert_eq!(ports.next_end(), Some(at(1301)));
        assert_eq!(in_force(&mut ports, Settings::default(), at(1301)), [1550]);
        assert_eq!(ports.next_end(), None);
    }
}
