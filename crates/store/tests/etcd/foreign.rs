//! Values below the prefix that are none of ours.

use super::server::{run, shared};
use super::{leading, put, raw, within};
use evenkeel_store::{Etcd, Store as _, StoreError};

fn is_unreadable<T: std::fmt::Debug>(result: Result<T, StoreError>, key: &str) {
    let error = result.expect_err("it is read");
    assert!(
        matches!(&error, StoreError::Unreadable { key: named, .. } if named.contains(key)),
        "{error}"
    );
}

#[test]
fn garbage_below_the_prefix_is_an_error_that_names_the_key() {
    let Some(server) = shared() else { return };
    run(async {
        for garbage in [
            b"".to_vec(),
            b"garbage".to_vec(),
            vec![1, 255, 255],
            vec![2],
            u64::MAX.to_string().into_bytes(),
        ] {
            for key in [
                "revision",
                "oldest",
                "pending",
                "format",
                "current//k",
                "head/00000000000000000001",
                "log/x",
                "history/x",
            ] {
                let config = server.fresh();
                let (etcd, leadership) = leading(&config, "me").await;
                put(&etcd, "/k", "1").await.unwrap();
                put(&etcd, "/k", "2").await.unwrap();
                let place = format!("{}/{key}", config.prefix);
                let mut client = server.client().await;
                client.put(place, garbage.clone(), None).await.unwrap();
                match key {
                    "revision" | "oldest" | "pending" => {
                        is_unreadable(etcd.get("/k").await, key);
                        is_unreadable(put(&etcd, "/k", "3").await, key);
                    }
                    "format" => is_unreadable(Etcd::open(&config).await.map(drop), key),
                    "current//k" => {
                        is_unreadable(etcd.get("/k").await, key);
                        is_unreadable(etcd.list("/").await, key);
                    }
                    "history/x" => is_unreadable(etcd.compact(2).await, key),
                    // It is where a commit's parts would be, and is in the next leader's way.
                    "log/x" => {
                        leadership.resign().await.unwrap();
                        is_unreadable(within(etcd.campaign("next")).await.map(drop), key);
                        etcd.changes(0, 9).await.unwrap();
                    }
                    _ => {
                        is_unreadable(etcd.changes(0, 9).await, key);
                        is_unreadable(etcd.history("/k", 9).await, key);
                        is_unreadable(etcd.log("/", u64::MAX, 9).await, key);
                        is_unreadable(etcd.read_commit(1).await, key);
                    }
                }
            }
        }
    });
}

#[test]
fn keys_of_a_newer_program_are_left_alone() {
    let Some(server) = shared() else { return };
    run(async {
        let config = server.fresh();
        let waiting = Etcd::open(&config).await.unwrap();
        let place = format!("{}/format", config.prefix);
        server.client().await.put(place, "99", None).await.unwrap();
        let text = Etcd::open(&config).await.err().unwrap().to_string();
        assert!(
            text.contains("schema version 99") && text.contains("newer program"),
            "{text}"
        );
        let refused = within(waiting.campaign("old")).await.err().unwrap();
        assert!(
            matches!(refused, StoreError::NewerSchema { .. }),
            "{refused}"
        );
    });
}

#[test]
fn a_leader_writes_nothing_more_once_the_keys_are_of_a_newer_program() {
    let Some(server) = shared() else { return };
    run(async {
        let config = server.fresh();
        let (etcd, _leadership) = leading(&config, "old").await;
        put(&etcd, "/k", "1").await.unwrap();
        let (mut client, place) = (server.client().await, format!("{}/format", config.prefix));
        client.put(place, "99", None).await.unwrap();
        let before = raw(&client, &config, "").await;
        let refused = [
            put(&etcd, "/k", "2").await.unwrap_err(),
            etcd.compact(1).await.unwrap_err(),
        ];
        for refused in refused {
            let is_told = matches!(refused, StoreError::NewerSchema { .. });
            assert!(is_told, "{refused}");
        }
        assert_eq!(raw(&client, &config, "").await, before);
    });
}

#[test]
fn clusters_with_prefixes_of_their_own_share_an_etcd() {
    let Some(server) = shared() else { return };
    run(async {
        let one = server.fresh();
        let mut other = one.clone();
        other.prefix.push_str("-more/");
        let (one, _one) = leading(&one, "one").await;
        let (other, _other) = leading(&other, "other").await;
        put(&one, "/k", "1").await.unwrap();
        put(&other, "/k", "other").await.unwrap();
        put(&other, "/l", "other").await.unwrap();
        assert_eq!(one.list("").await.unwrap().entries.len(), 1);
        assert_eq!(one.get("/k").await.unwrap().unwrap().value, b"1");
        assert_eq!(other.list("").await.unwrap().revision, 2);
    });
}
