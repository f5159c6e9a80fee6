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
