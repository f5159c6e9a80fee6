use super::*;

/// Settings from a file with this text, under these flags.
fn settle(text: &str, flags: Args) -> anyhow::Result<Settings> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("controller.toml");
    std::fs::write(&path, text)?;
    let config = Some(path);
    Args { config, ..flags }.settle()
}

#[test]
fn flags_win_over_the_file_and_the_file_over_the_defaults() {
    let flags = Args {
        listen_api: Some("127.0.0.1:1".parse().unwrap()),
        ..Args::default()
    };
    let text = "listen_api = \"127.0.0.1:2\"\ndata_dir = \"/data\"";
    let settings = settle(text, flags).unwrap();
    assert_eq!(settings.listen_api, "127.0.0.1:1".parse().unwrap());
    assert_eq!(settings.data_dir, Path::new("/data"));
    assert_eq!(settings.listen_engines, LISTEN_ENGINES.parse().unwrap());
}

#[test]
fn the_key_file_is_in_the_data_folder_unless_it_is_named() {
    let keys = |text: &str| settle(text, Args::default()).unwrap().seal_keys;
    let elsewhere = keys("data_dir = \"/data\"\nseal_keys = \"/keys/k.json\"");
    assert_eq!(elsewhere, Path::new("/keys/k.json"));
    assert_eq!(
        keys("data_dir = \"/data\""),
        Path::new("/data/seal-keys.json")
    );
}

#[test]
fn a_setting_that_does_not_exist_is_refused_by_name() {
    let error = settle("listen = \"127.0.0.1:2\"", Args::default())
        .err()
        .unwrap();
    assert!(
        format!("{error:#}").contains("unknown field `listen`"),
        "{error:#}"
    );
}

#[test]
fn a_certificate_needs_its_key() {
    let error = settle("api_cert = \"/c.pem\"", Args::default())
        .err()
        .unwrap();
    assert!(error.to_string().contains("go together"), "{error}");
}

#[test]
fn an_empty_password_file_is_refused_and_a_line_end_is_no_part_of_the_password() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    let password = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let flags = Args {
            admin_password_file: Some(path.clone()),
            ..Args::default()
        };
        settle("", flags).unwrap().admin_password()
    };
    assert_eq!(password("secret \n").unwrap().as_deref(), Some("secret "));
    assert!(password("\n").is_err());
}

/// Settings of one of several controllers, with these lines more.
fn shared(more: &str) -> anyhow::Result<Shared> {
    let text = format!("etcd = [\"http://10.0.0.1:2379\"]\nname = \"c-1\"\n{more}");
    Ok(settle(&text, Args::default())?
        .shared
        .expect("etcd is named"))
}

#[test]
fn without_etcd_a_controller_is_alone() {
    assert!(settle("", Args::default()).unwrap().shared.is_none());
}

#[test]
fn the_others_reach_the_api_where_it_listens_unless_another_address_is_named() {
    let listens = shared("listen_api = \"10.0.0.5:443\"").unwrap();
    assert_eq!(listens.advertise_api, "10.0.0.5:443");
    let named = shared("advertise_api = \"c-1.example:443\"").unwrap();
    assert_eq!(named.advertise_api, "c-1.example:443");
    let six = shared("advertise_api = \"[2001:db8::1]:443\"").unwrap();
    assert_eq!(six.advertise_api, "[2001:db8::1]:443");
    let wrong = [
        "c-1",
        "https://c-1:443",
        "0.0.0.0:443",
        ":443",
        "c:0",
        "2001:db8::1:443",
    ];
    let wrong = wrong.map(|text| format!("advertise_api = \"{text}\""));
    for more in wrong.iter().map(String::as_str).chain([""]) {
        let error = shared(more).err().unwrap().to_string();
        assert!(error.starts_with("advertise_api: "), "{more}: {error}");
    }
}

#[test]
fn what_makes_no_controller_of_a_cluster_is_refused_by_its_name() {
    let refused = |more: &str| {
        let text = format!("advertise_api = \"c:443\"\n{more}");
        shared(&text).err().unwrap().to_string()
    };
    for (more, expected) in [
        ("etcd_lease = 1", "etcd_lease: 1 is not between 3 and 120"),
        (
            "etcd_cert = \"/c.pem\"",
            "etcd_cert and etcd_key go together",
        ),
        (
            "etcd_user = \"u\"",
            "etcd_user and etcd_password_file go together",
        ),
    ] {
        let error = refused(more);
        assert!(error.starts_with(expected), "{error}");
    }
    let flags = Args {
        name: Some("a/b".into()),
        ..Args::default()
    };
    let text = "etcd = [\"http://e:2379\"]\nadvertise_api = \"c:443\"";
    let error = settle(text, flags).err().unwrap().to_string();
    assert!(error.starts_with("name: \"a/b\" is no name"), "{error}");
}

#[test]
fn etcd_is_reached_as_the_settings_say_and_flags_win() {
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "first line\nsecond\n").unwrap();
    let text = format!(
        "etcd = [\"https://a\", \"https://b\"]\netcd_prefix = \"/file\"\netcd_ca = \"/ca\"\netcd_cert = \"/c\"\n\
         etcd_key = \"/k\"\netcd_user = \"u\"\netcd_password_file = {password:?}\netcd_lease = 5\n\
         advertise_api = \"c:443\"\nseal_keys = \"/s\"\ndata_dir = \"/d\""
    );
    let flags = || Args {
        etcd_prefix: Some("/flag".into()),
        ..Args::default()
    };
    let settings = settle(&text, flags()).unwrap();
    let etcd = settings.shared.unwrap().etcd;
    assert_eq!(etcd.endpoints, ["https://a", "https://b"]);
    assert_eq!(etcd.prefix, "/flag");
    assert_eq!(etcd.ca.as_deref(), Some(Path::new("/ca")));
    assert_eq!(etcd.identity, Some(("/c".into(), "/k".into())));
    let login = etcd.login.unwrap();
    assert_eq!(
        (login.user.as_str(), login.password.as_str()),
        ("u", "first line")
    );
    assert_eq!(etcd.lease_ttl.as_secs(), 5);
    let config = folder.path().join("controller.toml");
    std::fs::write(&config, &text).unwrap();
    let config = Some(config);
    let place = Args { config, ..flags() }.place().unwrap();
    assert_eq!((place.folder, place.seal_keys), ("/d".into(), "/s".into()));
    assert_eq!(place.etcd.unwrap().prefix, "/flag");
}
