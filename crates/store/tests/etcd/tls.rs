//! An etcd that asks for certificates, and one that asks for a user.

use super::server::{Server, free_port, run};
use super::{leading, put, within};
use evenkeel_store::etcd::{Config, Login};
use evenkeel_store::{Etcd, Store as _, StoreError};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use std::fs::write;
use std::path::Path;

/// A CA, and certificates of it for a server and a client.
fn make_certificates(folder: &Path) {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    write(folder.join("ca.pem"), ca.pem()).unwrap();
    let issuer = Issuer::new(params, ca_key);
    for (name, purpose) in [
        ("server", ExtendedKeyUsagePurpose::ServerAuth),
        ("client", ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        params.extended_key_usages = vec![purpose, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer).unwrap();
        write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[test]
fn certificates_are_checked_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    make_certificates(folder.path());
    let path = |name: &str| folder.path().join(name);
    let text = |name: &str| path(name).to_string_lossy().into_owned();
    let mut config = Config::new([format!("https://127.0.0.1:{}", free_port())]);
    config.ca = Some(path("ca.pem"));
    config.identity = Some((path("client.pem"), path("client.key")));
    let args = [
        ["--cert-file", &text("server.pem")],
        ["--key-file", &text("server.key")],
        ["--trusted-ca-file", &text("ca.pem")],
    ];
    let args = [args.as_flattened(), &["--client-cert-auth"]].concat();
    let Some(server) = Server::start_with(config, &args) else {
        return;
    };
    run(async {
        let config = server.fresh();
        let (etcd, _leadership) = leading(&config, "me").await;
        put(&etcd, "/k", "1").await.unwrap();
        assert_eq!(etcd.list("/").await.unwrap().revision, 1);

        let mut nameless = config.clone();
        nameless.identity = None;
        let refused = within(Etcd::open(&nameless)).await.err().unwrap();
        assert!(
            matches!(refused, StoreError::Unreachable { .. }),
            "{refused}"
        );
        let mut trustless = config.clone();
        trustless.ca = None;
        let refused = within(Etcd::open(&trustless)).await.err().unwrap();
        let cause = std::error::Error::source(&refused).unwrap().to_string();
        assert!(cause.contains("a CA is named"), "{cause}");
        let mut missing = config.clone();
        missing.ca = Some("/none.pem".into());
        let refused = within(Etcd::open(&missing)).await.err().unwrap();
        assert!(refused.to_string().contains("/none.pem"), "{refused}");
    });
}

#[test]
fn a_user_with_a_password_is_let_in_and_others_are_refused() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    run(async {
        let mut client = server.client().await;
        client.user_add("root", "secret word", None).await.unwrap();
        client.role_add("root").await.unwrap();
        client.user_grant_role("root", "root").await.unwrap();
        client.auth_enable().await.unwrap();

        let mut config = server.fresh();
        let refused = within(Etcd::open(&config)).await.err().unwrap();
        assert!(matches!(refused, StoreError::Refused { .. }), "{refused}");
        let login = |password: &str| Login {
            user: "root".into(),
            password: password.into(),
        };
        config.login = Some(login("wrong"));
        let refused = within(Etcd::open(&config)).await.err().unwrap();
        assert!(matches!(refused, StoreError::Refused { .. }), "{refused}");
        config.login = Some(login("secret word"));
        assert!(!format!("{config:?}").contains("secret word"));
        let (etcd, _leadership) = leading(&config, "me").await;
        put(&etcd, "/k", "1").await.unwrap();
        etcd.scrub().await.unwrap();
    });
}
