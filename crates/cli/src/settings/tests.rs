use super::*;

fn layer(source: &str, controller: Option<&str>) -> Layer {
    Layer {
        controller: controller.map(Into::into),
        source: source.into(),
        ..Layer::default()
    }
}

fn with_password(mut layer: Layer, username: &str, password: &str) -> Layer {
    layer.username = Some(username.into());
    layer.password = Some(password.into());
    layer
}

#[test]
fn first_layer_that_names_a_controller_wins_and_is_named() {
    let first = with_password(layer("--controller", Some("https://a/")), "admin", "one");
    let second = with_password(layer("file", Some("https://b")), "admin", "two");
    let settings = resolve(&[layer("env", None), first, second]).unwrap();
    assert_eq!(
        (settings.config.url.as_str(), settings.source.as_str()),
        ("https://a", "--controller")
    );
    assert_eq!(settings.config.password, Password::new("one"));
}

#[test]
fn credentials_of_another_controller_are_never_used() {
    let mut lab = with_password(layer("lab", Some("https://lab")), "admin", "lab-secret");
    lab.netns = Some("ek1-controller".into());
    lab.insecure = Some(true);
    let error = resolve(&[layer("--controller", Some("https://prod")), lab.clone()]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no password for \"admin\" at https://prod"),
        "{error}"
    );
    let flags = with_password(layer("--controller", Some("https://prod")), "admin", "s");
    let settings = resolve(&[flags, lab]).unwrap();
    assert_eq!(
        (settings.config.netns, settings.config.trust),
        (None, Trust::System)
    );
}

#[test]
fn password_of_another_user_is_never_used() {
    let mut flags = layer("--controller", None);
    flags.username = Some("viewer".into());
    let file = with_password(layer("file", Some("https://c")), "admin", "s");
    assert!(resolve(&[flags, file]).is_err());
}

#[test]
fn layer_without_an_address_completes_any_other() {
    let mut defaults = layer("file", None);
    defaults.ca_file = Some("/etc/ca.pem".into());
    let flags = with_password(layer("--controller", Some("https://c")), "admin", "s");
    let settings = resolve(&[flags, defaults]).unwrap();
    assert_eq!(settings.config.trust, Trust::CaFile("/etc/ca.pem".into()));
}

#[test]
fn ca_file_of_a_flag_is_not_weakened_by_a_file() {
    let mut flags = with_password(layer("--controller", Some("https://c")), "admin", "s");
    flags.ca_file = Some("/etc/ca.pem".into());
    let mut file = layer("file", None);
    file.insecure = Some(true);
    assert_eq!(
        resolve(&[flags, file]).unwrap().config.trust,
        Trust::CaFile("/etc/ca.pem".into())
    );
}

#[test]
fn environment_gives_every_value_and_an_empty_one_gives_none() {
    let layer = environment(&|name| match name {
        "EVENKEEL_CONTROLLER" => Some("https://c".into()),
        "EVENKEEL_USER" => Some(String::new()),
        "EVENKEEL_PASSWORD" => Some("s".into()),
        "EVENKEEL_INSECURE" => Some("1".into()),
        _ => None,
    });
    assert_eq!((layer.username, layer.insecure), (None, Some(true)));
}

#[test]
fn misspelt_key_of_a_file_names_file_and_key() {
    let error = parse_file(Path::new("/home/u/cli.toml"), "contoller = \"https://c\"").unwrap_err();
    assert!(
        error.to_string().starts_with("/home/u/cli.toml: "),
        "{error}"
    );
    assert!(error.to_string().contains("contoller"), "{error}");
}

#[test]
fn unreachable_controller_says_where_the_address_came_from_and_what_to_try() {
    let mut config = ClientConfig::new("https://127.0.0.1:1", Password::new("s"));
    config.trust = Trust::Insecure;
    let settings = Settings {
        config,
        source: "EVENKEEL_CONTROLLER".into(),
    };
    let error = settings.connect().unwrap_err();
    let hinted: &Hinted = error.downcast_ref().unwrap();
    let text = format!("{hinted}; {}", hinted.hint);
    for part in [
        "address from EVENKEEL_CONTROLLER",
        "--controller",
        "https://127.0.0.1:1 is not reachable",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn an_address_is_the_same_with_and_without_its_default_parts() {
    let flags = layer("--controller", Some("10.0.0.1"));
    let file = with_password(layer("file", Some("https://10.0.0.1:443")), "admin", "s");
    assert!(resolve(&[flags, file.clone()]).is_ok());
    assert!(resolve(&[layer("--controller", Some("10.0.0.1:8443")), file]).is_err());
}

#[test]
fn a_layer_that_names_several_controllers_speaks_of_each_of_them_and_of_no_other() {
    let file = with_password(
        layer("file", Some("https://a, https://b:443/")),
        "admin",
        "s",
    );
    let with = |url: &str| resolve(&[layer("--controller", Some(url)), file.clone()]);
    for known in ["https://a", "b", "https://b,https://a"] {
        assert!(with(known).is_ok(), "{known}");
    }
    assert!(with("https://a,https://c").is_err());
    let all = resolve(std::slice::from_ref(&file)).unwrap().config.url;
    assert_eq!(all, "https://a, https://b:443");
}
