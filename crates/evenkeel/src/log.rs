//! The log of a daemon, on standard error.

use model::log::{Format, Settings};
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// What is logged, where neither flag nor file say it.
const LEVEL_VARIABLE: &str = "EVENKEEL_LOG";
const LEVEL: &str = "info";

/// Starts the log. Where nothing else is asked for: text, and JSON where systemd reads it.
///
/// # Errors
/// The level is none; the log is started with the default one, so that this can be said there.
pub fn start(settings: &Settings) -> anyhow::Result<()> {
    let variable = std::env::var(LEVEL_VARIABLE).ok();
    let (source, level) = level(settings, variable);
    let filter = EnvFilter::try_new(&level);
    let wrong = filter.as_ref().err().map(ToString::to_string);
    write(
        settings.format,
        filter.unwrap_or_else(|_| EnvFilter::new(LEVEL)),
    );
    match wrong {
        None => Ok(()),
        Some(why) => anyhow::bail!(
            "{source}: {level:?} is no level ({why}); write error, warn, info, debug or trace, or one of these for a part, as \
             in info,evenkeel_engine=debug"
        ),
    }
}

/// Flags over environment over file over default; and which of them it is.
fn level(settings: &Settings, variable: Option<String>) -> (&'static str, String) {
    let flag = settings.level_flag.clone().map(|l| ("log_level", l));
    let variable = variable.map(|l| (LEVEL_VARIABLE, l));
    let file = settings.level_file.clone().map(|l| ("log_level", l));
    let found = flag.or(variable).or(file);
    found.unwrap_or_else(|| ("log_level", LEVEL.to_owned()))
}

fn write(format: Option<Format>, filter: EnvFilter) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let read_by_systemd = || match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => Format::Json,
        None => Format::Text,
    };
    match format.unwrap_or_else(read_by_systemd) {
        Format::Json => log.json().flatten_event(true).init(),
        Format::Text => {
            let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            log.with_ansi(color).init();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_file() {
        let text = |t: &str| Some(t.to_owned());
        let mut settings = Settings {
            format: None,
            level_flag: text("warn"),
            level_file: text("debug"),
        };
        let source = |settings: &Settings, variable| level(settings, variable).1;
        assert_eq!(source(&settings, text("error")), "warn");
        settings.level_flag = None;
        assert_eq!(source(&settings, text("error")), "error");
        assert_eq!(source(&settings, None), "debug");
        settings.level_file = None;
        assert_eq!(source(&settings, None), "info");
    }
}
