use super::*;
use crate::bootstrap::access::make_admin;
use store::Memory;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

fn with_admin() -> Auth {
    run(async {
        let objects = Arc::new(Objects::open(Arc::new(Memory::default())).await.unwrap());
        crate::bootstrap::ensure(&objects).await.unwrap();
        let auth = Auth::new(objects.clone());
        let hash = auth.hash(Password::new("right")).await.unwrap();
        make_admin(&objects, hash).await.unwrap();
        auth
    })
}

fn login(auth: &Auth, user: &str, password: &str, from: IpAddr) -> Result<Ticket, u16> {
    let ticket = run(auth.login(user, Password::new(password), from));
    ticket.map_err(|e| e.status.as_u16())
}

#[test]
fn a_session_lives_from_use_to_use_and_ends_when_idle() {
    let auth = with_admin();
    let ticket = login(&auth, ADMIN, "right", HERE).unwrap();
    let start = Instant::now();
    let is_there = |now| auth.session_at(&ticket.id, now).unwrap().is_some();
    let after = |minutes: u64| start + Duration::from_secs(60 * minutes);
    assert!(is_there(after(14)));
    assert!(is_there(after(28)));
    assert!(!is_there(after(43)));
    assert!(!is_there(after(28)), "ended is ended");
}

/// Sets `api_idle_timeout`, in minutes.
fn set_idle(auth: &Auth, minutes: u64) {
    let author = crate::objects::Author::system("test");
    let (path, uuid) = singleton::CONTROLLER_PROPERTIES;
    let ty = model::schema::object_type(path).unwrap();
    let set = |draft: &mut crate::objects::Draft| {
        let mut body = draft.snapshot.require(ty, uuid)?.object.clone();
        body.insert("api_idle_timeout".into(), minutes.into());
        draft.update(ty, uuid, body, &author)
    };
    run(auth.objects.change(&author, "test", set)).unwrap();
}

#[test]
fn the_idle_time_is_the_settings_at_each_call_and_zero_is_for_ever() {
    let auth = with_admin();
    let ticket = login(&auth, ADMIN, "right", HERE).unwrap();
    let start = Instant::now();
    let is_there = |minutes: u64| {
        let now = start + Duration::from_secs(60 * minutes);
        auth.session_at(&ticket.id, now).unwrap().is_some()
    };
    set_idle(&auth, 60);
    assert!(is_there(59));
    set_idle(&auth, 0);
    assert!(is_there(59 + 10_000));
    set_idle(&auth, 1);
    assert!(!is_there(59 + 10_002), "at once");
}

#[test]
fn a_token_that_calls_without_pause_is_braked() {
    let auth = with_admin();
    let author = crate::objects::Author::system("test");
    let wish = token::Wish {
        name: String::new(),
        hours: 1,
    };
    let made = run(token::create(&auth.objects, &author, ADMIN_UUID, wish));
    let (_, text) = made.unwrap();
    // More than it can earn in the time that the calls take.
    let refused = (0..100_000).find_map(|_| run(auth.once_by_token(&text)).err());
    assert_eq!(refused.unwrap().status, StatusCode::TOO_MANY_REQUESTS);
}

#[test]
fn a_wrong_password_an_unknown_user_and_a_long_password_are_refused_alike() {
    let auth = with_admin();
    assert_eq!(login(&auth, ADMIN, "wrong", HERE).err(), Some(401));
    assert_eq!(login(&auth, "nobody", "right", HERE).err(), Some(401));
    assert_eq!(login(&auth, ADMIN, &"x".repeat(513), HERE).err(), Some(401));
    assert!(login(&auth, ADMIN, "right", HERE).is_ok());
}

#[test]
fn guessing_brakes_one_source_and_a_success_forgets_its_failures() {
    let auth = with_admin();
    let elsewhere = "192.0.2.1".parse().unwrap();
    for _ in 0..9 {
        assert_eq!(login(&auth, ADMIN, "wrong", HERE).err(), Some(401));
    }
    assert!(login(&auth, ADMIN, "right", HERE).is_ok());
    for _ in 0..10 {
        assert_eq!(login(&auth, ADMIN, "wrong", HERE).err(), Some(401));
    }
    assert_eq!(login(&auth, ADMIN, "right", HERE).err(), Some(429));
    assert!(login(&auth, ADMIN, "right", elsewhere).is_ok());
}

#[test]
fn a_host_that_guesses_from_all_of_its_addresses_is_braked() {
    let auth = with_admin();
    for n in 0..10u16 {
        let from = [0x2001, 0xdb8, 0, 0, n, 0, 0, 1].into();
        assert_eq!(login(&auth, ADMIN, "wrong", from).err(), Some(401));
    }
    let again = [0x2001, 0xdb8, 0, 0, 77, 0, 0, 1].into();
    assert_eq!(login(&auth, ADMIN, "right", again).err(), Some(429));
    let elsewhere = [0x2001, 0xdb8, 0, 1, 0, 0, 0, 1].into();
    assert!(login(&auth, ADMIN, "right", elsewhere).is_ok());
}

#[test]
fn all_sessions_of_a_user_end_but_the_one_that_stays() {
    let auth = with_admin();
    let [one, two] = [(); 2].map(|()| login(&auth, ADMIN, "right", HERE).unwrap());
    let is_there = |ticket: &Ticket| auth.session(&ticket.id).unwrap().is_some();
    auth.end_sessions("user-2", None);
    auth.end_sessions(ADMIN_UUID, Some(&one.id));
    assert!(is_there(&one) && !is_there(&two));
    auth.end_sessions(ADMIN_UUID, None);
    assert!(!is_there(&one));
}

#[test]
fn a_session_that_calls_without_pause_is_braked_and_goes_on_later() {
    let auth = with_admin();
    let ticket = login(&auth, ADMIN, "right", HERE).unwrap();
    let now = Instant::now();
    let calls = |now: Instant| {
        (0..5000)
            .filter(|_| auth.session_at(&ticket.id, now).is_ok())
            .count()
    };
    assert_eq!(calls(now), 2000, "as many at once as two seconds have");
    assert_eq!(calls(now), 0);
    assert_eq!(calls(now + Duration::from_secs(1)), 1000);
    assert_eq!(
        calls(now + Duration::from_secs(60)),
        2000,
        "no more is saved up"
    );
}

#[test]
fn a_user_has_so_many_sessions_and_the_oldest_goes() {
    let auth = with_admin();
    let tickets: Vec<Ticket> = (0..=SESSIONS_PER_USER_MAX)
        .map(|_| auth.open(ADMIN, ADMIN_UUID))
        .collect();
    let other = auth.open("somebody else", "user-2");
    let is_there = |ticket: &Ticket| auth.session(&ticket.id).unwrap().is_some();
    let left = tickets.iter().filter(|t| is_there(t)).count();
    assert_eq!(
        (left, is_there(&tickets[0])),
        (SESSIONS_PER_USER_MAX, false)
    );
    assert!(is_there(&other));
}

#[test]
fn a_password_is_stored_as_argon2id_alone() {
    let auth = with_admin();
    let text = auth.stored_hash(ADMIN).unwrap();
    assert!(
        text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
        "{text}"
    );
    assert!(!text.contains("right"));
}

#[test]
fn bytes_are_the_same_only_when_all_are() {
    assert!(same_bytes(b"abc", b"abc"));
    for other in [b"abd".as_slice(), b"ab", b"abcd", b""] {
        assert!(!same_bytes(b"abc", other));
    }
}
