//! Questions to a small plain HTTP server on loopback, and the file.

use super::list::{Ask, Form};
use super::*;
use client::{ClientConfig, Password};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Instant;

/// Far longer than a call on loopback takes.
const LONG: Duration = Duration::from_secs(60);

/// Status and body for what is asked for; none is no answer at all, on a connection that stays.
type Answers = dyn Fn(&str) -> Option<(u16, String)> + Send + Sync;

fn serve(answers: impl Fn(&str) -> Option<(u16, String)> + Send + Sync + 'static) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answers: Arc<Answers> = Arc::new(answers);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let answers = answers.clone();
            std::thread::spawn(move || answer(stream.unwrap(), &*answers));
        }
    });
    let mut config = ClientConfig::new(format!("http://{address}"), Password::default());
    config.token = Some(Password::new("any"));
    Client::connect(config).unwrap()
}

fn answer(stream: TcpStream, answers: &Answers) {
    let mut lines = BufReader::new(&stream).lines();
    let first = lines.next().unwrap().unwrap();
    let path = first.split(' ').nth(1).unwrap();
    // To the end of the head; a GET has no body.
    lines
        .by_ref()
        .find(|line| line.as_ref().unwrap().is_empty());
    match answers(path) {
        Some((status, body)) => {
            let len = body.len();
            let head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {len}");
            write!(&stream, "{head}\r\n\r\n{body}").unwrap();
        }
        // Until the client hangs up.
        None => drop(lines.next()),
    }
}

fn ask(path: &str, form: Form) -> Ask {
    Ask {
        file: format!("{path}.json"),
        path: format!("/{path}"),
        form,
    }
}

fn read(client: &Client, time: Duration, asks: Vec<Ask>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let reader = Reader::new(client, time);
    let kept = reader.read_all(asks, 2, |piece| {
        pieces.push(piece);
        Ok(())
    });
    kept.unwrap();
    pieces.sort_by(|a, b| a.path.cmp(&b.path));
    pieces
}

#[test]
fn what_is_not_answered_in_time_is_named_and_the_rest_is_read() {
    let client = serve(|path| path.starts_with("/good").then(|| (200, "{}".into())));
    let asks = ["hung-1", "good-1", "good-2", "hung-2", "hung-3"];
    let asks = asks.map(|path| ask(path, Form::Json)).into();
    let begun = Instant::now();
    let pieces = read(&client, Duration::from_secs(4), asks);
    assert!(begun.elapsed() < LONG, "all of them have one time limit");
    let good: Vec<_> = pieces.iter().filter(|p| p.text.is_some()).collect();
    let names: Vec<_> = good.iter().map(|p| p.path.as_str()).collect();
    assert_eq!(names, ["good-1.json", "good-2.json"]);
    assert!(good.iter().all(|p| p.error.is_none()));
    let hung: Vec<_> = pieces.iter().filter(|p| p.text.is_none()).collect();
    assert_eq!(hung.len(), 3);
    assert!(hung.iter().all(|p| p.error.is_some()), "{hung:?}");
    let late = read(&client, Duration::ZERO, vec![ask("good", Form::Json)]);
    let why = late[0].error.as_deref();
    assert_eq!(why, Some("not asked: 0 s for all questions were over"));
}

#[test]
fn what_is_read_is_masked_whatever_form_it_has() {
    let client = serve(|path| {
        let body = match path.split('?').next() {
            Some("/text") => "a token ekapi1.s3",
            Some("/list") => r#"{"count": 1, "results": [{"md5_secret": "s3"}]}"#,
            _ => r#"{"md5_secret": "s3"}"#,
        };
        Some((200, body.into()))
    });
    let pages = Form::Pages { size: 1, max: 1 };
    let asks = vec![
        ask("json", Form::Json),
        ask("list", pages),
        ask("text", Form::Text),
    ];
    for piece in read(&client, LONG, asks) {
        let text = piece.text.expect("read");
        assert!(!text.contains("s3"), "{}: {text}", piece.path);
        assert!(text.contains(model::object::MASK), "{}: {text}", piece.path);
    }
}

#[test]
fn an_answer_that_is_refused_or_no_json_or_not_the_engines_is_named_in_its_words() {
    let silent = r#"[{"se_uuid": "u", "not_answered": "it has no session"}]"#;
    let client = serve(move |path| {
        Some(match path {
            "/refused" => (403, r#"{"error": "anna may not"}"#.into()),
            "/silent" => (200, silent.into()),
            _ => (200, "<html>".into()),
        })
    });
    let asks = ["refused", "silent", "wrong"].map(|path| ask(path, Form::Json));
    let pieces = read(&client, LONG, asks.into());
    let error = |n: usize| pieces[n].error.as_deref().unwrap();
    assert_eq!((error(0), &pieces[0].text), ("403: anna may not", &None));
    assert_eq!(error(1), "it has no session");
    assert!(pieces[1].text.as_ref().unwrap().contains("se_uuid"));
    assert!(
        error(2).starts_with("the answer is not JSON: "),
        "{}",
        error(2)
    );
}

/// Five items in pages of two; the third page fails.
fn pages(path: &str) -> Option<(u16, String)> {
    let next = json!("/next");
    Some(match path.split('&').next().unwrap() {
        "/all?page=1" | "/cut?page=1" => {
            let page = json!({"count": 5, "next": next, "results": [1, 2]});
            (200, page.to_string())
        }
        "/all?page=2" | "/cut?page=2" => {
            let page = json!({"count": 5, "more": true, "results": [3, 4]});
            (200, page.to_string())
        }
        "/all?page=3" => (200, json!({"count": 5, "results": [5]}).to_string()),
        _ => (500, "full".into()),
    })
}

#[test]
fn a_list_is_read_to_its_end_or_its_limit_and_what_came_before_a_failure_is_kept() {
    let client = serve(pages);
    let list = |path: &str, max| {
        let reader = Reader::new(&client, LONG);
        let (piece, list) = reader.read_list(&ask(path, Form::Pages { size: 2, max }));
        let list: Vec<_> = list.iter().map(|n| n.as_u64().unwrap()).collect();
        (list, piece.error, piece.text)
    };
    let (all, error, _) = list("all", 100);
    assert_eq!((all, error), (vec![1, 2, 3, 4, 5], None));
    let (some, error, text) = list("all", 3);
    assert_eq!((some, error), (vec![1, 2, 3], None));
    let value: Value = serde_json::from_str(&text.unwrap()).unwrap();
    assert_eq!(value, json!({"count": 5, "results": [1, 2, 3]}));
    let (kept, error, text) = list("cut", 100);
    assert_eq!(
        (kept, error.as_deref()),
        (vec![1, 2, 3, 4], Some("500: full"))
    );
    assert!(text.is_some());
    let (none, error, text) = list("none", 100);
    assert_eq!(
        (none, error.as_deref(), text),
        (vec![], Some("500: full"), None)
    );
}

#[test]
fn what_cannot_be_written_ends_all_questions() {
    let client = serve(|_| Some((200, "{}".into())));
    let asks = (0..50).map(|n| ask(&n.to_string(), Form::Json));
    let reader = Reader::new(&client, LONG);
    let mut taken = 0;
    let ended = reader.read_all(asks.collect(), 2, |_| {
        taken += 1;
        bail!("no space left")
    });
    assert_eq!(ended.unwrap_err().to_string(), "no space left");
    assert_eq!(taken, 1);
}

fn begin(path: &Path, force: bool) -> anyhow::Result<Archive> {
    Archive::begin(path, force, "top", OffsetDateTime::UNIX_EPOCH)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    names.collect()
}

#[test]
fn a_file_that_is_there_stays_unless_it_is_to_be_replaced_and_an_unfinished_one_goes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.tar.gz");
    drop(begin(&path, false).unwrap());
    assert_eq!(names(folder.path()), [""; 0]);

    let mut archive = begin(&path, false).unwrap();
    archive.add("a.txt", "text").unwrap();
    let len = archive.finish().unwrap();
    let made = std::fs::metadata(&path).unwrap();
    assert_eq!(
        (made.len(), made.permissions().mode() & 0o777),
        (len, 0o600)
    );
    assert_eq!(names(folder.path()), ["b.tar.gz"]);

    let refused = begin(&path, false).err().unwrap().to_string();
    assert!(
        refused.contains("is there already") && refused.contains("--force"),
        "{refused}"
    );
    let replacing = begin(&path, true).unwrap();
    replacing.finish().unwrap();
    assert!(
        std::fs::metadata(&path).unwrap().len() < len,
        "an empty one"
    );

    // Somebody makes it meanwhile.
    let other = folder.path().join("other");
    let archive = begin(&other, false).unwrap();
    std::fs::write(&other, "not ours").unwrap();
    assert!(archive.finish().is_err());
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "not ours");
    assert_eq!(names(folder.path()).len(), 2);
}

#[test]
fn services_that_are_up_need_no_look_and_those_that_are_disabled_come_last() {
    let service = |state: &str| json!({"runtime": {"oper_status": {"state": state}}});
    let all = [DISABLED, UP, "OPER_DOWN"].map(service);
    assert_eq!(not_up(&all), [&all[2], &all[0]]);
}

#[test]
fn a_bundle_of_nothing_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut bundle = Bundle::begin(begin(&folder.path().join("b"), false).unwrap());
    let why = anyhow::anyhow!("no controller: ekapi1.secret");
    bundle.take(Piece::missing("controller", &why)).unwrap();
    let about = About::new(OffsetDateTime::UNIX_EPOCH);
    let error = bundle.finish(&about).unwrap_err().to_string();
    assert_eq!(
        error,
        "nothing could be read: no controller: ekapi1.<sensitive>"
    );
    assert_eq!(names(folder.path()), [""; 0]);
}
