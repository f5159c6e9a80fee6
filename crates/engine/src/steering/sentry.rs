//! Looks after engines that have no session with the controller, of our SE group: does their process answer us? One that does
//! is cut off from the controller and serves; of one that does not, the controller gives its VIPs to others.
//!
//! A question is a connection to any of its addresses, with a HELLO that has a number ([`super::line`]); also by the former port,
//! which an engine keeps that was not told of the new one. Tasks: one per engine, owned by [`run`] and ended with it.

use super::{Plan, Watched};
use crate::Task;
use flow::Flow;
use flow::config::{MessageKey, Settings};
use flow::key::Protocol;
use flow::wire::{Envelope, MESSAGE_LEN, Message, MessageKind};
use futures_util::future::select_ok;
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Between two questions to an engine.
const PERIOD: Duration = Duration::from_millis(500);
/// Longest wait for an answer.
const WAIT: Duration = Duration::from_secs(1);
/// So many questions in a row without an answer are silence: a process that starts again is back before that.
const SILENT_AFTER: u32 = 4;

/// By uuid of the engine.
pub(crate) type Sightings = BTreeMap<String, Sighting>;

/// What is seen of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sighting {
    /// Its process answers.
    pub answers: bool,
    /// It has, or has not, from this moment on.
    pub since: Instant,
}

/// Asks the engines that the plan names, and publishes what is seen. Cancel-safe: it waits for a newer plan.
pub(crate) async fn run(mut plans: watch::Receiver<Arc<Plan>>, seen: watch::Sender<Sightings>) {
    let mut asked: BTreeMap<String, (Watched, Task<()>)> = BTreeMap::new();
    loop {
        let watched = plans.borrow_and_update().watched.clone();
        asked.retain(|_, (old, _)| watched.contains(old));
        seen.send_if_modified(|seen| {
            let before = seen.len();
            seen.retain(|uuid, _| watched.iter().any(|w| w.se_uuid == *uuid));
            seen.len() != before
        });
        for engine in watched {
            let (uuid, look) = (engine.se_uuid.clone(), (plans.clone(), seen.clone()));
            asked.entry(uuid).or_insert_with(|| {
                let look = look_after(engine.clone(), look.0, look.1);
                (engine, Task(tokio::spawn(look)))
            });
        }
        if plans.changed().await.is_err() {
            return;
        }
    }
}

async fn look_after(
    engine: Watched,
    plans: watch::Receiver<Arc<Plan>>,
    seen: watch::Sender<Sightings>,
) {
    if engine.addresses.is_empty() {
        // Nobody can ask it, which is no silence.
        return;
    }
    let mut missed = 0;
    for number in (1..=u16::MAX >> 2).cycle() {
        let settings = plans.borrow().config.settings.clone();
        if let Some(key) = key_of(&settings.message_keys, number) {
            missed = match is_there(&doors(&engine, &settings), number, key).await {
                true => 0,
                false => SILENT_AFTER.min(missed + 1),
            };
            seen.send_if_modified(|seen| see(seen, &engine.se_uuid, missed));
        }
        sleep(PERIOD).await;
    }
}

/// All of ours in turn: one that is cut off may have an older one, or does not know the newest.
fn key_of(keys: &[MessageKey], number: u16) -> Option<MessageKey> {
    let at = usize::from(number).checked_rem(keys.len())?;
    keys.get(at).copied()
}

/// Whether that is news.
fn see(seen: &mut Sightings, uuid: &str, missed: u32) -> bool {
    let answers = missed == 0;
    let known = seen.get(uuid).is_some_and(|s| s.answers == answers);
    let is_certain = answers || missed >= SILENT_AFTER;
    if known || !is_certain {
        return false;
    }
    let since = Instant::now();
    seen.insert(uuid.to_owned(), Sighting { answers, since });
    true
}

/// Where its process may listen.
fn doors(engine: &Watched, settings: &Settings) -> Vec<SocketAddr> {
    let at = |port| {
        let addresses = engine.addresses.iter();
        addresses.map(move |address| SocketAddr::new(*address, port))
    };
    settings.ports().flat_map(at).collect()
}

/// Whether it answers at one of these.
async fn is_there(doors: &[SocketAddr], number: u16, key: MessageKey) -> bool {
    let asked = doors.iter();
    let asked = asked.map(|door| Box::pin(ask(*door, number, key)));
    let asked: Vec<_> = asked.collect();
    select_ok(asked).await.is_ok()
}

async fn ask(door: SocketAddr, number: u16, key: MessageKey) -> io::Result<()> {
    let answer = timeout(WAIT, answer(door, number, key)).await??;
    let envelope = Envelope::read(&answer);
    let message = envelope.and_then(|envelope| {
        envelope.check()?;
        envelope.open(&[key])
    });
    match message {
        Ok(heard) if heard.kind == MessageKind::Heard && heard.number == number => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

async fn answer(door: SocketAddr, number: u16, key: MessageKey) -> io::Result<[u8; MESSAGE_LEN]> {
    let mut line = TcpStream::connect(door).await?;
    line.write_all(&question(number).sign(&key)).await?;
    let mut answer = [0; MESSAGE_LEN];
    line.read_exact(&mut answer).await?;
    Ok(answer)
}

/// It is about no flow.
fn question(number: u16) -> Message {
    let nobody = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    Message {
        kind: MessageKind::Hello,
        sender: 0,
        number,
        generation: 0,
        flow: Flow {
            protocol: Protocol::Tcp,
            client: nobody,
            service: nobody,
        },
        load: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::hello::tests::config;
    use super::super::line::{self, Lines};
    use super::*;
    use tokio_util::sync::CancellationToken;

    const US: &str = "127.0.93.1";
    const THERE: &str = "127.0.93.2";
    const KEY: [u64; 2] = [1, 2];

    fn plan(local: &str, secret: [u64; 2], watched: Vec<Watched>) -> Arc<Plan> {
        let mut config = config(local, "127.0.93.9");
        config.settings.message_keys[0].secret = secret;
        config.addresses = vec![local.parse().unwrap()];
        Arc::new(Plan {
            config,
            watched,
            ..Plan::default()
        })
    }

    fn watched(addresses: &[&str]) -> Vec<Watched> {
        vec![Watched {
            se_uuid: "se-2".into(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        }]
    }

    struct Process {
        _plans: watch::Sender<Arc<Plan>>,
        _task: Task<()>,
    }

    /// An engine that knows nothing of us but the key.
    fn process(local: &str, secret: [u64; 2]) -> Process {
        let (plans, planned) = watch::channel(plan(local, secret, Vec::new()));
        Process {
            _plans: plans,
            _task: Task(tokio::spawn(line::run(
                planned,
                watch::channel(Lines::new()).0,
                CancellationToken::new(),
            ))),
        }
    }

    async fn until_it_answers(engine: &Watched, key: MessageKey) {
        let asked = timeout(Duration::from_secs(20), async {
            for number in (1..100).cycle() {
                if is_there(&doors(engine, &Settings::default()), number, key).await {
                    break;
                }
                sleep(Duration::from_millis(10)).await;
            }
        });
        asked.await.expect("it answers");
    }

    #[tokio::test]
    async fn an_engine_is_seen_while_its_process_lives_and_forgotten_when_nobody_asks() {
        let (plans, planned) = watch::channel(plan(US, KEY, watched(&["127.0.93.8", THERE])));
        let (sender, mut seen) = watch::channel(Sightings::new());
        let _sentry = Task(tokio::spawn(run(planned, sender)));
        let answers = |seen: &Sightings| seen.get("se-2").map(|s| s.answers);
        seen.wait_for(|s| answers(s) == Some(false)).await.unwrap();
        let there = process(THERE, KEY);
        seen.wait_for(|s| answers(s) == Some(true)).await.unwrap();
        drop(there);
        seen.wait_for(|s| answers(s) == Some(false)).await.unwrap();
        plans.send_replace(plan(US, KEY, Vec::new()));
        seen.wait_for(|s| s.is_empty()).await.unwrap();
    }

    #[test]
    fn an_engine_is_asked_by_the_former_port_as_well() {
        let settings = Settings {
            port: 4790,
            former_port: Some(1550),
            ..Settings::default()
        };
        let doors = doors(&watched(&["127.0.93.5"])[0], &settings);
        let expected = ["127.0.93.5:4790", "127.0.93.5:1550"];
        let expected = expected.map(|door| door.parse::<SocketAddr>().unwrap());
        assert_eq!(doors, expected);
    }

    #[test]
    fn all_keys_are_tried_in_turn() {
        let keys = [1, 2].map(|id| MessageKey { id, secret: KEY });
        let tried = (1..=4).filter_map(|number| key_of(&keys, number));
        assert_eq!(tried.map(|k| k.id).collect::<Vec<_>>(), [2, 1, 2, 1]);
        assert!(key_of(&[], 1).is_none());
    }

    #[tokio::test]
    async fn one_that_signs_with_another_key_of_the_group_answers_with_the_one_that_it_was_asked_with()
     {
        let there = "127.0.93.4";
        let mut plan = (*plan(there, KEY, Vec::new())).clone();
        let (older, newer) = (plan.config.settings.message_keys[0], [5, 6]);
        let newer = MessageKey {
            id: 8,
            secret: newer,
        };
        plan.config.settings.message_keys = vec![older, newer];
        let (_plans, planned) = watch::channel(Arc::new(plan));
        let lines = watch::channel(Lines::new()).0;
        let _there = Task(tokio::spawn(line::run(
            planned,
            lines,
            CancellationToken::new(),
        )));
        let engine = &watched(&[there])[0];
        for key in [newer, older] {
            until_it_answers(engine, key).await;
        }
    }

    #[tokio::test]
    async fn one_with_another_key_is_not_it() {
        let there = "127.0.93.3";
        let _there = process(there, [1, 3]);
        let engine = &watched(&[there])[0];
        let key = |secret| MessageKey { id: 7, secret };
        until_it_answers(engine, key([1, 3])).await;
        let doors = doors(engine, &Settings::default());
        assert!(!is_there(&doors, 1, key(KEY)).await);
    }
}
