//! `README.txt`: what each file is, when and of what, what is missing and why.

use super::{Part, list};
use std::collections::BTreeMap;
use time::OffsetDateTime;
use time::macros::format_description;

/// Its name.
pub(super) const FILE: &str = "README.txt";

/// What no bundle has.
pub(super) const NEVER: [&str; 2] = [
    "secrets: passwords, keys, tokens and MD5 secrets are masked (<sensitive>) or not there at all",
    "logs: controller and engines keep none. They are in the journal (`journalctl -u UNIT --since -2h`), or where standard \
     error of the processes goes; send them, too",
];

/// When, by what and of whom.
pub(super) struct About {
    now: OffsetDateTime,
    /// Address of the controller, if one was asked.
    pub controller: Option<String>,
    /// What it says of its version.
    pub version: Option<String>,
}

impl About {
    pub(super) fn new(now: OffsetDateTime) -> Self {
        Self {
            now,
            controller: None,
            version: None,
        }
    }
}

/// Parts in the order of their names.
pub(super) fn text(about: &About, parts: &[Part], left_out: &[String]) -> String {
    let sections = [
        head(about),
        files(parts),
        missing(parts),
        section("What is left out", left_out),
    ];
    sections.join("\n")
}

fn head(about: &About) -> String {
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    let time = about.now.format(form);
    let time = time.expect("each component is one of a time");
    let none = "none was reached";
    format!(
        "Evenkeel support bundle\n\n  made        {time}, by evenkeel {}\n  controller  {}\n  version     {}\n",
        env!("CARGO_PKG_VERSION"),
        about.controller.as_deref().unwrap_or(none),
        about.version.as_deref().unwrap_or("not known"),
    )
}

/// A line for each kind of file, however many engines there are.
fn files(parts: &[Part]) -> String {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for part in parts.iter().filter(|part| part.bytes > 0) {
        *kinds.entry(pattern(&part.path)).or_default() += 1;
    }
    let line = |(pattern, count): (&String, &usize)| match count {
        1 => format!("{pattern}: {}", what(pattern)),
        _ => format!("{pattern}: {} ({count} files)", what(pattern)),
    };
    section("Files", &kinds.iter().map(line).collect::<Vec<_>>())
}

/// Several files of a folder that are missing for the same reason are a line.
fn missing(parts: &[Part]) -> String {
    let mut reasons: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for part in parts {
        let Some(error) = part.error.as_deref() else {
            continue;
        };
        let (folder, file) = part.path.rsplit_once('/').unwrap_or((&part.path, "all"));
        reasons.entry((folder, error)).or_default().push(file);
    }
    let line = |((folder, error), files): (&(&str, &str), &Vec<&str>)| {
        format!("{folder}: {error} ({})", files.join(", "))
    };
    let lines: Vec<_> = reasons.iter().map(line).collect();
    section("What is missing, or not whole", &lines)
}

fn section(title: &str, lines: &[String]) -> String {
    let mut text = format!("{title}\n\n");
    for line in lines {
        // A reason of several lines stays one entry.
        text.push_str(&format!("  {}\n", line.trim_end().replace('\n', "\n    ")));
    }
    if lines.is_empty() {
        text.push_str("  nothing\n");
    }
    text
}

/// The path with NAME for the name of an engine or a virtual service.
fn pattern(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        ["virtualservices", _, file] if file.starts_with("explain-") => {
            format!("virtualservices/NAME/{}", list::EXPLAIN.file)
        }
        [of @ ("engines" | "virtualservices"), _, file] => format!("{of}/NAME/{file}"),
        ["controller", "objects", _] => "controller/objects/TYPE.json".into(),
        _ => path.to_owned(),
    }
}

fn what(pattern: &str) -> &'static str {
    let (folder, file) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    let of = |kinds: &'static [list::Kind]| {
        let found = kinds.iter().find(|kind| kind.file == file);
        found.map(|kind| kind.what)
    };
    let found = match folder {
        "controller" => of(&list::CONTROLLER).or_else(|| of(&list::INVENTORIES)),
        "controller/objects" => {
            Some("objects of a type, where the configuration as a whole was refused")
        }
        "engines/NAME" => of(&list::ENGINE),
        "virtualservices/NAME" => {
            of(&list::SERVICE).or((file == list::EXPLAIN.file).then_some(list::EXPLAIN.what))
        }
        "host" => super::host::what(file),
        _ => None,
    };
    found.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(path: &str, error: Option<&str>) -> Part {
        Part {
            path: path.into(),
            bytes: usize::from(error.is_none()),
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn files_have_a_line_for_each_kind_and_what_is_missing_one_for_each_reason() {
        let parts = [
            part("controller/audit.json", None),
            part("engines/se-1/route.json", None),
            part("engines/se-2/interface.json", Some("it has no session")),
            part("engines/se-2/route.json", Some("it has no session")),
            part("engines/se-3/route.json", None),
            part("virtualservices/web/explain-192.0.2.1.json", None),
        ];
        let about = About::new(OffsetDateTime::UNIX_EPOCH);
        let text = text(&about, &parts, &["host/: made without --host".into()]);
        for line in [
            "  made        1970-01-01T00:00:00Z, by evenkeel ",
            "  controller  none was reached\n",
            "  controller/audit.json: who changed what, newest first\n",
            "  engines/NAME/route.json: IPv4 routes of its host (2 files)\n",
            "  virtualservices/NAME/explain-ADDRESS.json: why the VIP is announced or not\n",
            "  engines/se-2: it has no session (interface.json, route.json)\n",
            "  host/: made without --host\n",
        ] {
            assert!(text.contains(line), "{line} in:\n{text}");
        }
    }

    #[test]
    fn each_kind_of_file_is_said_to_be_something() {
        let of = |folder: &str, file: &str| format!("{folder}/{file}");
        let kinds = list::CONTROLLER.iter().chain(&list::INVENTORIES);
        let mut all: Vec<String> = kinds.map(|k| of("controller", k.file)).collect();
        all.extend(list::ENGINE.iter().map(|k| of("engines/NAME", k.file)));
        let services = list::SERVICE.iter().chain([&list::EXPLAIN]);
        all.extend(services.map(|k| of("virtualservices/NAME", k.file)));
        all.extend(super::super::host::FILES.map(|(file, _)| of("host", file)));
        all.push("controller/objects/TYPE.json".into());
        let unsaid: Vec<_> = all.iter().filter(|file| what(file).is_empty()).collect();
        assert!(all.len() > 40 && unsaid.is_empty(), "{unsaid:?}");
    }
}
